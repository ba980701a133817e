package config

import "fmt"

const sameMonitor = "troupe-monitor is the one monitor of all containers"

var handlerOptions = []Option{
	ofHandler("runtime_type", "", func(h *Handler) *string { return &h.Type },
		"libcontainer (in troupe-monitor, needs no binary) or oci (runtime_path, by its command line: crun, runc and the like). Empty is oci. vm and pod are refused.",
		oneOf("", TypeLibcontainer, TypeOCI, TypeVM, TypePod)),
	ofHandler("runtime_path", "", func(h *Handler) *string { return &h.Path },
		"The binary of a runtime of type oci. Empty: looked up in $PATH by the handler's name.", absolute),
	ofHandler("platform_runtime_paths", map[string]string{}, func(h *Handler) *map[string]string { return &h.PlatformPaths },
		"Binaries by platform, like \"linux/arm64\"; the node's own platform wins over runtime_path.", check(absoluteValues)),
	ofHandler("runtime_root", "", func(h *Handler) *string { return &h.Root },
		"Where the runtime keeps its state (its --root). Empty: below troupe's own run directory.", absolute),
	ofHandler("inherit_default_runtime", false, func(h *Handler) *bool { return &h.Inherit },
		"Take runtime_type, runtime_path, platform_runtime_paths and runtime_root from default_runtime."),
	ofHandler("container_create_timeout", createTimeout, func(h *Handler) *int { return &h.CreateSeconds },
		"Seconds the runtime may take to make a container; less than 30 is taken for 30. Not for libcontainer, which runs no binary."),
	ofHandler("container_min_memory", "12MiB", func(h *Handler) *string { return &h.MinMemory },
		"Containers with a smaller memory limit are refused: they could not even start. 0: none are.", check(sizeText)),
	ofHandler("allowed_annotations", []string{}, func(h *Handler) *[]string { return &h.AllowedAnnotations },
		"Annotations of pods and containers that reach the runtime: names, or beginnings of names. Runtimes obey some (run.oci.*, org.systemd.property.*), so allow only what you know.", check(named)),
	ofHandler("default_annotations", map[string]string{}, func(h *Handler) *map[string]string { return &h.DefaultAnnotations },
		"Annotations that every container's runtime gets; those of pods and containers, as far as they are allowed, win."),
	ofHandler("privileged_without_host_devices", false, func(h *Handler) *bool { return &h.PrivilegedNoDevices },
		"Privileged containers do not get the node's devices."),
	ofHandler("seccomp_profile", "", func(h *Handler) *string { return &h.SeccompProfile },
		"The profile behind RuntimeDefault for this handler, a JSON file. Empty: that of [crio.runtime].", absoluteOrUnconfined),
	ofHandler("exec_cpu_affinity", "", func(h *Handler) *string { return &h.ExecCPUAffinity },
		"first: an exec begins on the first CPU of its container's cpuset. Empty: the runtime decides.", oneOf("", "first")),
	known(handlerPrefix+"*.no_sync_log", true, "logs are never forced to disk"),
	known(handlerPrefix+"*.runtime_config_path", "", "it is for runtimes of type vm"),
	known(handlerPrefix+"*.disallowed_annotations", []string{}, "only what allowed_annotations names reaches the runtime"),
	known(handlerPrefix+"*.monitor_path", "", sameMonitor),
	known(handlerPrefix+"*.monitor_cgroup", "", sameMonitor),
	known(handlerPrefix+"*.monitor_exec_cgroup", "", sameMonitor),
	known(handlerPrefix+"*.monitor_env", []string{}, sameMonitor),
	known(handlerPrefix+"*.stream_websockets", true, "WebSocket is served beside SPDY for every handler"),
}

// createTimeout is crio.conf(5)'s default, in seconds, and its least value.
const (
	createTimeout    = 240
	minCreateTimeout = 30
)

func absoluteValues(v map[string]string) error {
	for name, path := range v {
		if path == "" || absolutePath(path) != nil {
			return fmt.Errorf("has %q for %s; use an absolute path", path, name)
		}
	}
	return nil
}

func named(v []string) error {
	for _, name := range v {
		if name == "" {
			return fmt.Errorf("has an empty name, which would allow all; name the annotations")
		}
	}
	return nil
}

func sizeText(v string) error {
	_, err := parseSize(v)
	return err
}

package bundles

import (
	"path"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/messages"
)

// What of /proc and /sys a container must not see or not write when the caller
// does not say: the list the kubelet sends for a default procMount.
var (
	defaultMasked = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// paths hides and protects paths. Protobuf cannot tell an empty list from none.
// For a pod in a user namespace empty is meant (procMount: Unmasked, which
// Kubernetes allows only there); for others it is the default, never nothing.
func (b *bundle) paths() error {
	if b.sc.GetPrivileged() {
		return nil
	}
	if b.r.Config != nil && b.own != nil && len(b.sc.GetMaskedPaths())+len(b.sc.GetReadonlyPaths()) == 0 {
		return nil
	}
	masked, readonly := b.sc.GetMaskedPaths(), b.sc.GetReadonlyPaths()
	if len(masked) == 0 {
		masked = defaultMasked
	}
	if len(readonly) == 0 {
		readonly = defaultReadonly
	}
	for _, p := range append(append([]string{}, masked...), readonly...) {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return messages.Errorf(messages.Invalid, "masked_paths, readonly_paths: %q: must be an absolute path", p)
		}
	}
	b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = masked, readonly
	return nil
}

// logPath is the container's log file; it must not lie outside the pod's log
// directory, whatever its name says.
func (b *bundle) logPath() error {
	dir, name := b.r.PodConfig.GetLogDirectory(), b.r.Config.GetLogPath()
	if dir == "" || name == "" {
		b.log.Info("no log_directory or no log_path: the output of the container is discarded")
		return nil
	}
	if !filepath.IsAbs(dir) {
		return messages.Errorf(messages.Invalid, "log_directory %q of the pod: must be an absolute path", dir)
	}
	if !filepath.IsLocal(name) || filepath.Clean(name) == "." || strings.ContainsAny(dir+name, "\x00\n") {
		return messages.Errorf(messages.Invalid, "log_path %q: must be a path below the pod's log_directory %s", name, dir)
	}
	b.LogPath = filepath.Join(dir, name)
	return nil
}

// below says whether a clean path is another or lies under it.
func below(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

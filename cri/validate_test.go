package cri

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// goodPod is what a kubelet sends for a simple pod.
func goodPod() *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: "web-0", Namespace: "default", Uid: "6f1c"},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/default_web-0_6f1c",
		DnsConfig:    &runtime.DNSConfig{Servers: []string{"10.96.0.10", "fe80::1%eth0"}, Searches: []string{"default.svc.cluster.local", "."}, Options: []string{"ndots:5"}},
		PortMappings: []*runtime.PortMapping{{ContainerPort: 80}, {ContainerPort: 80, HostPort: 8080}, {ContainerPort: 53, HostPort: 8080, Protocol: runtime.Protocol_UDP}},
		Labels:       map[string]string{"app": "web"},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/burstable/pod6f1c",
			Sysctls:      map[string]string{"net.ipv4.ip_local_port_range": "1024\t65000", "net/ipv4/conf/eth0.100/rp_filter": "0"},
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER, UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_NODE}},
				Seccomp:          &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

func podSecurity(p *runtime.PodSandboxConfig) *runtime.LinuxSandboxSecurityContext {
	return p.Linux.SecurityContext
}

func TestASandboxThatCannotWorkIsRefusedWithItsField(t *testing.T) {
	for field, spoil := range map[string]func(*runtime.PodSandboxConfig){
		"config.metadata ":                        func(p *runtime.PodSandboxConfig) { p.Metadata = nil },
		"config.metadata.name ":                   func(p *runtime.PodSandboxConfig) { p.Metadata.Name = "" },
		"config.metadata.namespace ":              func(p *runtime.PodSandboxConfig) { p.Metadata.Namespace = "a/b" },
		"config.metadata.uid ":                    func(p *runtime.PodSandboxConfig) { p.Metadata.Uid = ".." },
		"config.hostname ":                        func(p *runtime.PodSandboxConfig) { p.Hostname = "a_b\nc" },
		`is longer than 64 bytes`:                 func(p *runtime.PodSandboxConfig) { p.Hostname = strings.Repeat("h", 65) },
		"config.log_directory ":                   func(p *runtime.PodSandboxConfig) { p.LogDirectory = "var/log" },
		"config.dns_config.servers[0] ":           func(p *runtime.PodSandboxConfig) { p.DnsConfig.Servers[0] = "10.0.0.1\noptions x" },
		"config.dns_config.searches[0] ":          func(p *runtime.PodSandboxConfig) { p.DnsConfig.Searches[0] = "a b" },
		"config.dns_config.options[0] ":           func(p *runtime.PodSandboxConfig) { p.DnsConfig.Options[0] = "" },
		"config.port_mappings[1].host_port ":      func(p *runtime.PodSandboxConfig) { p.PortMappings[1].HostPort = 65536 },
		"config.port_mappings[1].host_ip ":        func(p *runtime.PodSandboxConfig) { p.PortMappings[1].HostIp = "localhost" },
		"config.port_mappings[1].container_port ": func(p *runtime.PodSandboxConfig) { p.PortMappings[1].ContainerPort = 0 },
		"config.port_mappings[0].protocol ":       func(p *runtime.PodSandboxConfig) { p.PortMappings[0].Protocol = 9 },
		"is the same as in port_mappings[1]":      func(p *runtime.PodSandboxConfig) { p.PortMappings[2].Protocol = 0 },
		"config.labels ":                          func(p *runtime.PodSandboxConfig) { p.Labels[""] = "x" },
		"config.annotations ": func(p *runtime.PodSandboxConfig) {
			p.Annotations = map[string]string{"a": strings.Repeat("x", 600<<10)}
		},
		"config.linux.cgroup_parent ":                func(p *runtime.PodSandboxConfig) { p.Linux.CgroupParent = "/kubepods/../.." },
		`config.linux.sysctls "kernel/../x"`:         func(p *runtime.PodSandboxConfig) { p.Linux.Sysctls["kernel/../x"] = "1" },
		"config.linux.sysctls kernel.shm_rmid":       func(p *runtime.PodSandboxConfig) { p.Linux.Sysctls["kernel.shm_rmid"] = "1+kernel.core_pattern=|/x" },
		"config.linux.sysctls kernel.msgmax":         func(p *runtime.PodSandboxConfig) { p.Linux.Sysctls["kernel.msgmax"] = "1\n2" },
		"security_context.namespace_options.network": func(p *runtime.PodSandboxConfig) { podSecurity(p).NamespaceOptions.Network = 3 },
		"security_context.namespace_options.pid":     func(p *runtime.PodSandboxConfig) { podSecurity(p).NamespaceOptions.Pid = runtime.NamespaceMode_TARGET },
		"security_context.run_as_group":              func(p *runtime.PodSandboxConfig) { podSecurity(p).RunAsGroup = &runtime.Int64Value{Value: 1} },
		"security_context.seccomp.localhost_ref":     func(p *runtime.PodSandboxConfig) { podSecurity(p).Seccomp.LocalhostRef = "/x" },
		"userns_options.mode": func(p *runtime.PodSandboxConfig) {
			podSecurity(p).NamespaceOptions.UsernsOptions.Mode = runtime.NamespaceMode_CONTAINER
		},
	} {
		t.Run(strings.TrimSpace(field), func(t *testing.T) {
			pod := goodPod()
			spoil(pod)
			wantRefused(t, validateRunPod(&runtime.RunPodSandboxRequest{Config: pod}), messages.Invalid, field)
		})
	}
	wantRefused(t, validateRunPod(&runtime.RunPodSandboxRequest{}), messages.Invalid, "config is missing")
}

func TestWhatAKubeletAndCritestSendIsAccepted(t *testing.T) {
	bare := &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}}
	for _, pod := range []*runtime.PodSandboxConfig{goodPod(), bare} {
		if err := validateRunPod(&runtime.RunPodSandboxRequest{Config: pod}); err != nil {
			t.Error(err)
		}
	}
	bareContainer := &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: "busybox"}}
	for _, c := range []*runtime.ContainerConfig{goodContainer(), bareContainer} {
		if err := validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}); err != nil {
			t.Error(err)
		}
	}
}

// goodContainer is what a kubelet sends for a container of it.
func goodContainer() *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "web"},
		Image:    &runtime.ImageSpec{Image: "registry.example/web@sha256:aa"},
		Command:  []string{"/bin/web"},
		Envs:     []*runtime.KeyValue{{Key: "PORT", Value: []byte("80")}, {Key: "EMPTY"}, {Key: "TEXT", Value: []byte("two\nlines")}},
		Mounts: []*runtime.Mount{
			{HostPath: "/var/lib/kubelet/pods/6f1c/etc-hosts", ContainerPath: "/etc/hosts"},
			{HostPath: "/data", ContainerPath: "/data", Readonly: true, RecursiveReadOnly: true},
		},
		Devices:   []*runtime.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}},
		LogPath:   "web/0.log",
		StdinOnce: true,
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20,
				OomScoreAdj: 985, CpusetCpus: "0-1,3", HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB"}},
				Unified: map[string]string{"memory.oom.group": "1"},
			},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				RunAsUser:        &runtime.Int64Value{Value: 1000}, RunAsGroup: &runtime.Int64Value{Value: 1000},
				MaskedPaths: []string{"/proc/kcore"}, SupplementalGroups: []int64{2000},
			},
		},
	}
}

func TestAContainerThatCannotWorkIsRefusedWithItsField(t *testing.T) {
	type config = runtime.ContainerConfig
	sc := func(c *config) *runtime.LinuxContainerSecurityContext { return c.Linux.SecurityContext }
	res := func(c *config) *runtime.LinuxContainerResources { return c.Linux.Resources }
	for field, spoil := range map[string]func(*config){
		"config.metadata ":                       func(c *config) { c.Metadata = nil },
		"config.metadata.name ":                  func(c *config) { c.Metadata.Name = "a\nb" },
		"config.image.image ":                    func(c *config) { c.Image = nil },
		`config.image.image "a b"`:               func(c *config) { c.Image.Image = "a b" },
		"config.command[0] ":                     func(c *config) { c.Command = []string{""} },
		"config.args[1] ":                        func(c *config) { c.Args = []string{"a", "b\x00"} },
		"config.working_dir ":                    func(c *config) { c.WorkingDir = "/a\nb" },
		"config.envs[0].key ":                    func(c *config) { c.Envs[0].Key = "A=B" },
		"config.envs[1].key ":                    func(c *config) { c.Envs[1].Key = "" },
		"config.envs[0].value ":                  func(c *config) { c.Envs[0].Value = []byte{0} },
		"mounts[0].container_path ":              func(c *config) { c.Mounts[0].ContainerPath = "" },
		"mounts[0].container_path \"etc/hosts\"": func(c *config) { c.Mounts[0].ContainerPath = "etc/hosts" },
		"must not be the root":                   func(c *config) { c.Mounts[0].ContainerPath = "/x/.." },
		"mounts[0].host_path is empty":           func(c *config) { c.Mounts[0].HostPath = "" },
		"mounts[0].host_path \"/x\": must be": func(c *config) {
			c.Mounts[0] = &runtime.Mount{ContainerPath: "/a", HostPath: "/x", Image: &runtime.ImageSpec{}}
		},
		"mounts[0].image.image is empty": func(c *config) {
			c.Mounts[0] = &runtime.Mount{ContainerPath: "/a", Image: &runtime.ImageSpec{}}
		},
		"mounts[0].image_sub_path \"../x\"": func(c *config) {
			c.Mounts[0] = &runtime.Mount{ContainerPath: "/a", Image: &runtime.ImageSpec{Image: "m"}, ImageSubPath: "../x"}
		},
		"mounts[0].readonly is false": func(c *config) {
			c.Mounts[0] = &runtime.Mount{ContainerPath: "/a", Image: &runtime.ImageSpec{Image: "m"}}
		},
		"mounts[0].image_sub_path \"x\": is set without image": func(c *config) { c.Mounts[0].ImageSubPath = "x" },
		"mounts[0].mount_options[1] \"suid\"":                  func(c *config) { c.Mounts[0].MountOptions = []string{"noexec", "suid"} },
		"mounts[0].propagation ":                               func(c *config) { c.Mounts[0].Propagation = 7 },
		"recursive_read_only is set without":                   func(c *config) { c.Mounts[1].Readonly = false },
		"recursive_read_only needs":                            func(c *config) { c.Mounts[1].Propagation = 2 },
		"config.devices[0].host_path ":                         func(c *config) { c.Devices[0].HostPath = "" },
		"config.devices[0].permissions ":                       func(c *config) { c.Devices[0].Permissions = "rx" },
		"config.log_path \"../../etc/cron.d/x\"":               func(c *config) { c.LogPath = "../../etc/cron.d/x" },
		"config.log_path \"a/../..\"":                          func(c *config) { c.LogPath = "a/../.." },
		"config.log_path \"/etc/x\"":                           func(c *config) { c.LogPath = "/etc/x" },
		"config.log_path \"a\\nb\"":                            func(c *config) { c.LogPath = "a\nb" },
		"config.stop_signal ":                                  func(c *config) { c.StopSignal = 99 },
		"resources.cpu_period ":                                func(c *config) { res(c).CpuPeriod = -5 },
		"resources.cpu_quota ":                                 func(c *config) { res(c).CpuQuota = 10 },
		"resources.cpu_shares ":                                func(c *config) { res(c).CpuShares = -1 },
		"resources.memory_limit_in_bytes ":                     func(c *config) { res(c).MemoryLimitInBytes = -1 },
		"resources.memory_swap_limit_in_bytes ":                func(c *config) { res(c).MemorySwapLimitInBytes = 1 },
		"resources.oom_score_adj ":                             func(c *config) { res(c).OomScoreAdj = 1001 },
		"resources.cpuset_cpus ":                               func(c *config) { res(c).CpusetCpus = "0;1" },
		"resources.hugepage_limits[0].page_size ":              func(c *config) { res(c).HugepageLimits[0].PageSize = "" },
		`resources.unified "../x.y"`:                           func(c *config) { res(c).Unified = map[string]string{"../x.y": "1"} },
		"resources.unified memory.high":                        func(c *config) { res(c).Unified = map[string]string{"memory.high": "1\n2"} },
		"namespace_options.target_id is empty":                 func(c *config) { sc(c).NamespaceOptions.Pid = runtime.NamespaceMode_TARGET },
		"namespace_options.target_id \"x\"":                    func(c *config) { sc(c).NamespaceOptions.TargetId = "x" },
		"run_as_group is set without":                          func(c *config) { sc(c).RunAsUser = nil },
		"run_as_username \"a\": is set together":               func(c *config) { sc(c).RunAsUsername = "a" },
		"is not a user name":                                   func(c *config) { sc(c).RunAsUser, sc(c).RunAsUsername = nil, "a\nroot::0:0" },
		"run_as_user -1":                                       func(c *config) { sc(c).RunAsUser.Value = -1 },
		"supplemental_groups[0] ":                              func(c *config) { sc(c).SupplementalGroups[0] = 1 << 32 },
		"supplemental_groups_policy ":                          func(c *config) { sc(c).SupplementalGroupsPolicy = 5 },
		"masked_paths[0] ":                                     func(c *config) { sc(c).MaskedPaths[0] = "proc" },
		"apparmor.localhost_ref ": func(c *config) {
			sc(c).Apparmor = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost}
		},
		"seccomp.localhost_ref ": func(c *config) {
			sc(c).Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "x.json"}
		},
	} {
		t.Run(strings.TrimSpace(field), func(t *testing.T) {
			c := goodContainer()
			spoil(c)
			wantRefused(t, validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}), messages.Invalid, field)
		})
	}
	c := goodContainer()
	c.Mounts[0] = &runtime.Mount{ContainerPath: "/models", Image: &runtime.ImageSpec{Image: "models"}, Readonly: true}
	if err := validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}); err != nil {
		t.Errorf("an image volume: %v", err)
	}
	wantRefused(t, validateCreate(&runtime.CreateContainerRequest{Config: c}), messages.Invalid, "pod_sandbox_id ")
	wantRefused(t, validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p"}), messages.Invalid, "config is missing")
}

func TestOtherRequestsThatCannotWorkAreRefused(t *testing.T) {
	wantRefused(t, validateStop(&runtime.StopContainerRequest{ContainerId: "c", Timeout: -1}), messages.Invalid, "timeout ")
	wantRefused(t, validateStop(&runtime.StopContainerRequest{}), messages.Invalid, "container_id ")
	wantRefused(t, validateExecSync(&runtime.ExecSyncRequest{ContainerId: "c"}), messages.Invalid, "cmd ")
	wantRefused(t, validateExecSync(&runtime.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a", "\x00"}}), messages.Invalid, "cmd[1] ")
	wantRefused(t, validateExecSync(&runtime.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a"}, Timeout: -1}), messages.Invalid, "timeout ")
	wantRefused(t, validatePull(&runtime.PullImageRequest{}), messages.Invalid, "image.image ")
	for _, err := range []error{
		validateStop(&runtime.StopContainerRequest{ContainerId: "c"}),
		validateExecSync(&runtime.ExecSyncRequest{ContainerId: "c", Cmd: []string{"true"}}),
		validatePull(&runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "busybox"}}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}

func wantRefused(t *testing.T, err error, kind messages.Kind, text string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("accepted, want an error with %q", text)
	case messages.KindOf(err) != kind || !strings.Contains(err.Error(), text):
		t.Errorf("kind %v %q, want kind %v with %q", messages.KindOf(err), err, kind, text)
	}
}

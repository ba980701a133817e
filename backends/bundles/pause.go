package bundles

import "github.com/opencontainers/runtime-spec/specs-go"

// pauseOOMScore makes the kernel kill everything else in the pod first: with
// the pause process, all of them would die. (-998 is the kubelet's for it.)
const pauseOOMScore = -998

// pause is the process that holds a pod's shared PID namespace and reaps what
// is orphaned in it. The monitor brings the binary and the root directory.
func (b *bundle) pause() error {
	p := b.spec.Process
	p.Args = []string{"/pause"}
	p.Cwd = "/"
	p.Env = []string{defaultPath}
	p.NoNewPrivileges = true
	score := b.oomScore(pauseOOMScore)
	p.OOMScoreAdj = &score
	b.spec.Root = &specs.Root{Path: "rootfs", Readonly: true}
	b.spec.Mounts = []specs.Mount{
		procMount(),
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
	}
	b.spec.Linux.Namespaces = append(b.podNamespaces(), specs.LinuxNamespace{Type: specs.PIDNamespace})
	// The smallest share there is: it only ever waits.
	shares := uint64(2)
	b.spec.Linux.Resources = &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{denyAllDevices()},
		CPU:     &specs.LinuxCPU{Shares: &shares},
	}
	return nil
}

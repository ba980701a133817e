//go:build vm

package vm

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func resize(t *testing.T, container string, r *runtime.LinuxContainerResources) error {
	t.Helper()
	_, err := cri.Runtime.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: container, Linux: r})
	return err
}

// What only the kernel knows is undone by systemd's next daemon-reload, so a
// resize must reach the scope as well.
func TestAResizeReachesTheKernelAndTheScope(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	pid, unit := pidOf(t, c), "troupe-"+c+".scope"
	ok(t, resize(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 30_000, CpuPeriod: 60_000, CpuShares: 2048}))
	check := func(when string) {
		t.Helper()
		cgroup := cgroupOf(t, c)
		equal(t, "memory.max "+when, cgroupFile(t, cgroup, "memory.max"), "134217728")
		equal(t, "cpu.max "+when, cgroupFile(t, cgroup, "cpu.max"), "30000 60000")
		equal(t, "systemd's MemoryMax "+when, property(t, unit, "MemoryMax"), "134217728")
		equal(t, "systemd's CPUWeight "+when, property(t, unit, "CPUWeight"), cgroupFile(t, cgroup, "cpu.weight"))
		shown := statusOf(t, c).Resources.GetLinux()
		if shown.GetMemoryLimitInBytes() != 128<<20 || shown.GetCpuQuota() != 30_000 || shown.GetCpuPeriod() != 60_000 || shown.GetCpuShares() != 2048 {
			t.Errorf("shown %s is %v", when, shown)
		}
		checkSame(t, when, c, pid)
	}
	check("after the resize")
	systemctl(t, "daemon-reload")
	check("after systemd wrote its limits again")
	systemctl(t, "kill", "-s", "KILL", "troupe")
	eventually(t, "the daemon is back", func() bool { return property(t, "troupe", "ActiveState") == "active" })
	check("after the daemon's death")
}

func TestAResizeThatIsRefusedChangesNothing(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	for what, r := range map[string]*runtime.LinuxContainerResources{
		"cpuset": {MemoryLimitInBytes: 128 << 20, CpusetCpus: "4000"},
		"quota":  {MemoryLimitInBytes: 128 << 20, CpuQuota: 3},
	} {
		err := resize(t, c, r)
		equal(t, what+": the answer", status.Code(err), codes.InvalidArgument)
		checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
	}
}

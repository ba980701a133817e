package e2e

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (n *node) update(t *testing.T, c *container, r *runtime.LinuxContainerResources) error {
	t.Helper()
	_, err := n.cri.Runtime.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
	return err
}

func memoryLimit(t *testing.T, c *container) string {
	t.Helper()
	return cgroupValue(t, c, "memory", "memory.limit_in_bytes", "memory.max")
}

func TestAContainerIsResizedInPlace(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	running := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900}
	})
	pid := running.pid(t)
	n.run(t, "update", "--memory", "134217728", "--cpu-quota", "30000", "--cpu-period", "60000", "--cpu-share", "300", running.id)
	equal(t, "the memory limit", memoryLimit(t, running), "134217728")
	if quota := cgroupValue(t, running, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(quota, "30000") {
		t.Errorf("the CPU quota is %q", quota)
	}
	r := running.status(t).Resources.GetLinux()
	if r.GetMemoryLimitInBytes() != 128<<20 || r.GetCpuQuota() != 30_000 || r.GetCpuPeriod() != 60_000 || r.GetCpuShares() != 300 || r.GetOomScoreAdj() != 900 {
		t.Errorf("shown is %v", r)
	}
	ok(t, n.update(t, running, &runtime.LinuxContainerResources{MemoryLimitInBytes: 32 << 20})) // the rest stays
	equal(t, "the memory limit", memoryLimit(t, running), "33554432")
	equal(t, "the quota that is shown", running.status(t).Resources.GetLinux().GetCpuQuota(), 30_000)
	equal(t, "the pid: nothing was restarted", running.pid(t), pid)
	equal(t, "exec after it", running.exec(t, "echo works"), "works")

	created := p.create(t, "exec sleep 100000")
	ok(t, n.update(t, created, &runtime.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}))
	n.run(t, "start", created.id)
	equal(t, "what was set before the start", memoryLimit(t, created), "50331648")
}

func TestAResizeThatIsRefusedChangesNothing(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	})
	before := memoryLimit(t, c)
	for what, r := range map[string]*runtime.LinuxContainerResources{
		"cpuset_cpus":                {MemoryLimitInBytes: 128 << 20, CpuShares: 77, CpusetCpus: "4000"},
		"cpu_quota":                  {MemoryLimitInBytes: 128 << 20, CpuQuota: 3},
		"memory_swap_limit_in_bytes": {MemorySwapLimitInBytes: 1 << 20}, // below what it has already
		"hugepage_limits":            {MemoryLimitInBytes: 128 << 20, HugepageLimits: []*runtime.HugepageLimit{{PageSize: "3MB", Limit: 1}}},
	} {
		refused(t, n.update(t, c, r), code(codes.InvalidArgument), "")
		equal(t, what+": the memory limit", memoryLimit(t, c), before)
		equal(t, what+": what is shown", c.status(t).Resources.GetLinux().GetMemoryLimitInBytes(), 64<<20)
	}
	n.run(t, "stop", "-t", "0", c.id)
	refused(t, n.update(t, c, &runtime.LinuxContainerResources{CpuShares: 77}), code(codes.FailedPrecondition), "exited")
	refused(t, n.update(t, &container{id: strings.Repeat("f", 64)}, &runtime.LinuxContainerResources{CpuShares: 77}), code(codes.NotFound), "")
}

func TestAResizeSurvivesTheDaemonsDeath(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	ok(t, n.update(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}))
	_, err := n.cri.Runtime.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Overhead: &runtime.LinuxContainerResources{MemoryLimitInBytes: 16 << 20},
		Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: 256 << 20},
	})
	ok(t, err)
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "what is shown", c.status(t).Resources.GetLinux().GetMemoryLimitInBytes(), 96<<20)
	equal(t, "what is in force", memoryLimit(t, c), "100663296")
	contains(t, "the pod's verbose status", n.run(t, "inspectp", p.id), "268435456", "16777216")
	_, err = n.cri.Runtime.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{PodSandboxId: strings.Repeat("f", 64)})
	refused(t, err, code(codes.NotFound), "")
}

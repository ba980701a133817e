//go:build vm

package vm

import (
	"fmt"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStatsComeFromTheScopeAndThePodsSlice(t *testing.T) {
	// The kubelet names a pod's slice after its uid, with '_' for '-'.
	slice := fmt.Sprintf("kubepods-besteffort-poduid_pod_%d.slice", serial.Load()+1)
	t.Cleanup(func() { systemctl(t, "stop", slice) })
	p := newPod(t, "/kubepods.slice/kubepods-besteffort.slice/"+slice)
	c := p.start(t, "while :; do :; done", &runtime.LinuxContainerResources{CpuShares: 1024, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20})
	var s *runtime.ContainerStats
	eventually(t, "the busy container has a rate", func() bool {
		r, err := cri.Runtime.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: c})
		ok(t, err)
		s = r.Stats
		return s.Cpu.GetUsageNanoCores().GetValue() > 10_000_000
	})
	m := s.Memory
	if m.WorkingSetBytes.GetValue() == 0 || m.AvailableBytes.GetValue() != 64<<20-m.WorkingSetBytes.GetValue() || m.PageFaults.GetValue() == 0 {
		t.Errorf("memory: %v", m)
	}
	if s.WritableLayer.GetInodesUsed().GetValue() == 0 {
		t.Errorf("writable layer: %v", s.WritableLayer)
	}
	r, err := cri.Runtime.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: p.id})
	ok(t, err)
	l := r.Stats.Linux
	if l.Cpu.GetUsageCoreNanoSeconds().GetValue() < s.Cpu.UsageCoreNanoSeconds.GetValue() || l.Process.GetProcessCount().GetValue() < 1 {
		t.Errorf("the pod has used less than its container: %v, %v", l.Cpu, l.Process)
	}
	// A sum of containers has no pressure; a kernel without PSI has none either.
	if (s.Cpu.Psi != nil) != (l.Cpu.Psi != nil) {
		t.Errorf("pressure: container %v, pod %v: is it not the pod's own slice?", s.Cpu.Psi, l.Cpu.Psi)
	}
	metrics, err := cri.Runtime.ListPodSandboxMetrics(t.Context(), &runtime.ListPodSandboxMetricsRequest{})
	ok(t, err)
	values := map[string]uint64{}
	for _, pod := range metrics.PodMetrics {
		for _, of := range pod.ContainerMetrics {
			for _, v := range of.Metrics {
				if of.ContainerId == c {
					values[v.Name] = v.Value.GetValue()
				}
			}
		}
	}
	equal(t, "limit", values["container_spec_memory_limit_bytes"], 64<<20)
	equal(t, "shares", values["container_spec_cpu_shares"], 1024)
	equal(t, "processes", values["container_processes"], 1)
	for _, name := range []string{"container_memory_max_usage_bytes", "container_memory_kernel_usage", "container_memory_usage_bytes"} {
		if values[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}

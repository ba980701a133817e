package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crictlJSON decodes what crictl prints as JSON.
func crictlJSON[M interface {
	*T
	proto.Message
}, T any](t *testing.T, n *node, args ...string) M {
	t.Helper()
	m := M(new(T))
	ok(t, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(n.run(t, args...)), m))
	return m
}

func (c *container) stats(t *testing.T) *runtime.ContainerStats {
	t.Helper()
	r, err := c.pod.cri.Runtime.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: c.id})
	ok(t, err)
	return r.Stats
}

func (p *pod) stats(t *testing.T) *runtime.PodSandboxStats {
	t.Helper()
	r, err := p.cri.Runtime.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: p.id})
	ok(t, err)
	return r.Stats
}

func TestStatsShowWhatAContainerUses(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	const limit = 128 << 20
	busy := p.start(t, "while :; do :; done", func(c *runtime.ContainerConfig) {
		c.Labels = map[string]string{"app": "busy"}
		c.Linux.Resources.MemoryLimitInBytes = limit
		c.Linux.Resources.MemorySwapLimitInBytes = limit
	})
	idle := p.start(t, "sleep 100000")

	var s *runtime.ContainerStats
	eventually(t, "the busy container has a rate", func() bool {
		s = busy.stats(t)
		return s.Cpu.GetUsageNanoCores().GetValue() > 10_000_000
	})
	if s.Cpu.Timestamp == 0 || s.Cpu.UsageCoreNanoSeconds.GetValue() == 0 {
		t.Errorf("cpu: %v", s.Cpu)
	}
	m := s.Memory
	if m.Timestamp == 0 || m.UsageBytes.GetValue() == 0 || m.WorkingSetBytes.GetValue() == 0 || m.RssBytes == nil || m.PageFaults.GetValue() == 0 || m.MajorPageFaults == nil {
		t.Errorf("memory: %v", m)
	}
	equal(t, "available memory", m.AvailableBytes.GetValue(), limit-m.WorkingSetBytes.GetValue())
	if s.Swap == nil || s.Swap.Timestamp == 0 || s.Swap.SwapUsageBytes == nil || s.Swap.SwapAvailableBytes == nil {
		t.Errorf("swap, with a limit: %v", s.Swap)
	}
	equal(t, "id", s.Attributes.Id, busy.id)
	equal(t, "name", s.Attributes.Metadata.GetName(), busy.config.Metadata.Name)
	equal(t, "label", s.Attributes.Labels["app"], "busy")
	if idle := idle.stats(t); idle.Memory.AvailableBytes != nil || idle.Cpu.GetUsageNanoCores().GetValue() > s.Cpu.UsageNanoCores.GetValue() {
		t.Errorf("a container that sleeps and has no limit: %v, %v", idle.Memory, idle.Cpu)
	}

	listed := crictlJSON[*runtime.ListContainerStatsResponse](t, n, "stats", "-o", "json", "--label", "app=busy")
	if len(listed.Stats) != 1 || listed.Stats[0].Attributes.Id != busy.id {
		t.Errorf("crictl stats by label: %v", listed)
	}
	contains(t, "crictl stats", n.run(t, "stats", busy.id[:13]), busy.id[:13], busy.config.Metadata.Name)
}

func TestThePodsStatsHoldItsContainersProcessesAndTraffic(t *testing.T) {
	n := theNode(t)
	p, peer := n.pod(t), n.pod(t)
	c := p.start(t, "sleep 100000 & sleep 100000")
	peer.start(t, "while :; do echo hello | nc -l -p 80; done")
	before := p.stats(t).Linux
	if before.Network.GetDefaultInterface().GetName() != "eth0" || len(before.Network.Interfaces) != 0 {
		t.Fatalf("network: %v", before.Network)
	}
	address := peer.status(t).Network.Ip
	eventually(t, "the peer answers", func() bool {
		return strings.Contains(c.exec(t, "nc -w 1 "+address+" 80 || true"), "hello")
	})
	after := p.stats(t).Linux
	for what, pair := range map[string][2]*runtime.UInt64Value{
		"received": {before.Network.DefaultInterface.RxBytes, after.Network.DefaultInterface.RxBytes},
		"sent":     {before.Network.DefaultInterface.TxBytes, after.Network.DefaultInterface.TxBytes},
	} {
		if pair[1].GetValue() < pair[0].GetValue()+100 {
			t.Errorf("bytes %s: %d before, %d after", what, pair[0].GetValue(), pair[1].GetValue())
		}
	}
	if len(after.Containers) != 1 || after.Containers[0].Attributes.Id != c.id {
		t.Errorf("containers: %v", after.Containers)
	}
	if got := after.Process.GetProcessCount().GetValue(); got < 2 || got > 3 {
		t.Errorf("%d processes, want a shell and its two", got)
	}
	if after.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 || after.Memory.GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("the pod's own: %v, %v", after.Cpu, after.Memory)
	}
	listed := crictlJSON[*runtime.ListPodSandboxStatsResponse](t, n, "statsp", "-o", "json", "--id", p.id)
	if len(listed.Stats) != 1 || listed.Stats[0].Attributes.GetMetadata().GetUid() != p.config.Metadata.Uid {
		t.Errorf("crictl statsp: %v", listed)
	}
}

func TestAPodOnTheNodesNetworkHasNoTrafficOfItsOwn(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}}
	})
	p.start(t, "sleep 100000")
	s := p.stats(t).Linux
	if s.Network != nil || s.Memory == nil {
		t.Errorf("network %v, memory %v", s.Network, s.Memory)
	}
}

func TestTheWritableLayerGrowsByWhatIsWritten(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "sleep 100000")
	before := c.stats(t).WritableLayer
	if before.GetFsId().GetMountpoint() == "" || before.Timestamp == 0 {
		t.Fatalf("writable layer: %v", before)
	}
	c.exec(t, "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; touch /one /two")
	eventually(t, "the layer has grown", func() bool {
		after := c.stats(t).WritableLayer
		return after.UsedBytes.GetValue() >= before.UsedBytes.GetValue()+3<<20 &&
			after.InodesUsed.GetValue() == before.InodesUsed.GetValue()+3 && after.Timestamp > before.Timestamp
	})
	n.run(t, "stop", "-t", "0", c.id)
	s := c.stats(t)
	if s.Cpu != nil || s.WritableLayer.GetUsedBytes().GetValue() < 3<<20 {
		t.Errorf("a stopped container has no CPU but still its files: %v", s)
	}
	if listed := crictlJSON[*runtime.ListContainerStatsResponse](t, n, "stats", "-o", "json", c.id); len(listed.Stats) != 0 {
		t.Errorf("a stopped container is listed: %v", listed)
	}
}

func TestStatsOfWhatIsNotThereAreNotFound(t *testing.T) {
	n := theNode(t)
	_, err := n.cri.Runtime.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: strings.Repeat("ab", 32)})
	equal(t, "container", status.Code(err), codes.NotFound)
	_, err = n.cri.Runtime.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: strings.Repeat("ab", 32)})
	equal(t, "pod", status.Code(err), codes.NotFound)
}

// Containers end and are removed while others ask: no list fails, and one that
// stays is in each.
func TestContainersThatComeAndGoDoNotFailALongList(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	stays := p.start(t, "sleep 100000")
	done := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			r, err := n.cri.Runtime.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
			if err != nil || !slices.ContainsFunc(r.Stats, func(s *runtime.ContainerStats) bool { return s.Attributes.Id == stays.id }) {
				t.Errorf("list: %v, %d containers", err, len(r.GetStats()))
				return
			}
			if _, err := n.cri.Runtime.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{}); err != nil {
				t.Error(err)
				return
			}
			if _, err := n.cri.Runtime.ListPodSandboxMetrics(t.Context(), &runtime.ListPodSandboxMetricsRequest{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 6 {
		c := p.start(t, "sleep 100000")
		n.run(t, "rm", "-f", c.id)
	}
	close(done)
	asking.Wait()
}

func TestStreamedStatsAreTheList(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "sleep 100000")
	stream, err := n.cri.Runtime.StreamContainerStats(t.Context(), &runtime.StreamContainerStatsRequest{Filter: &runtime.ContainerStatsFilter{PodSandboxId: p.id}})
	ok(t, err)
	var ids []string
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		ok(t, err)
		for _, s := range r.ContainerStats {
			ids = append(ids, s.Attributes.Id)
		}
	}
	if !slices.Equal(ids, []string{c.id}) {
		t.Errorf("streamed %v", ids)
	}
}

// critest's list of August 2026 (cri-tools v1.37.0, pkg/validate/pod.go), of
// which it lets none be left out but where the kernel has nothing to count.
var wantedMetrics = strings.Fields(`
container_blkio_device_usage_total container_cpu_cfs_periods_total container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total container_cpu_usage_seconds_total
container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free container_fs_inodes_total
container_fs_limit_bytes container_fs_reads_bytes_total container_fs_reads_total container_fs_usage_bytes
container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes container_hugetlb_usage_bytes
container_last_seen container_memory_cache container_memory_failcnt container_memory_failures_total
container_memory_kernel_usage container_memory_mapped_file container_memory_max_usage_bytes container_memory_rss
container_memory_swap container_memory_usage_bytes container_memory_working_set_bytes
container_network_receive_bytes_total container_network_receive_errors_total
container_network_receive_packets_dropped_total container_network_receive_packets_total
container_network_transmit_bytes_total container_network_transmit_errors_total
container_network_transmit_packets_dropped_total container_network_transmit_packets_total container_oom_events_total
container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total
container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total
container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total container_processes
container_sockets container_spec_cpu_period container_spec_cpu_quota container_spec_cpu_shares
container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes container_spec_memory_swap_limit_bytes
container_start_time_seconds container_threads container_threads_max container_ulimits_soft`)

// mayHaveNoValue are those that a kernel, or a container without block IO, has
// nothing for.
func mayHaveNoValue(name string) bool {
	for _, prefix := range []string{"container_blkio_", "container_fs_reads_", "container_fs_writes_", "container_pressure_", "container_hugetlb_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func TestAllMetricsAreDescribedAndHaveValues(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{
			CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 1024, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20,
		}
	})
	c.exec(t, "dd if=/dev/zero of=/written bs=1M count=2 2>/dev/null && sync")
	r, err := n.cri.Runtime.ListMetricDescriptors(t.Context(), &runtime.ListMetricDescriptorsRequest{})
	ok(t, err)
	described := map[string]*runtime.MetricDescriptor{}
	for _, d := range r.Descriptors {
		if d.Help == "" || len(d.LabelKeys) == 0 || described[d.Name] != nil {
			t.Errorf("descriptor %v", d)
		}
		described[d.Name] = d
	}
	values := map[string]*runtime.Metric{}
	// A walk of the layer, which others may have asked for just before, is good for a second.
	eventually(t, "what was written is measured", func() bool {
		values = metricsOf(t, n, p.id)
		return values["container_fs_usage_bytes"].GetValue().GetValue() >= 2<<20
	})
	for _, name := range wantedMetrics {
		if described[name] == nil {
			t.Errorf("%s is not described", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(described)) {
		if values[name] == nil && !mayHaveNoValue(name) {
			t.Errorf("%s has no value", name)
		}
	}
	for name, m := range values {
		if d := described[name]; d == nil || len(d.LabelKeys) != len(m.LabelValues) {
			t.Errorf("%v is not as described: %v", m, d)
		}
	}
	checkMetric(t, described, values, "container_spec_memory_limit_bytes", 64<<20, map[string]string{
		"name": c.id, "container": c.config.Metadata.Name, "pod": p.config.Metadata.Name, "namespace": "e2e", "image": n.image,
	})
	checkMetric(t, described, values, "container_spec_cpu_quota", 20000, nil)
	checkMetric(t, described, values, "container_spec_cpu_shares", 1024, nil)
	checkMetric(t, described, values, "container_processes", 1, nil)
	checkMetric(t, described, values, "container_network_receive_errors_total", 0, map[string]string{"interface": "eth0", "name": p.id})
	if fs := values["container_fs_usage_bytes"]; fs.MetricType != runtime.MetricType_GAUGE {
		t.Errorf("written: %v", fs)
	}
	if cpu := values["container_cpu_usage_seconds_total"]; cpu.GetMetricType() != runtime.MetricType_COUNTER || cpu.GetTimestamp() != 0 {
		t.Errorf("cpu: %v", cpu)
	}
}

// metricsOf are the metrics of a pod and its container, by name.
func metricsOf(t *testing.T, n *node, id string) map[string]*runtime.Metric {
	t.Helper()
	values := map[string]*runtime.Metric{}
	for _, pod := range crictlJSON[*runtime.ListPodSandboxMetricsResponse](t, n, "metricsp").PodMetrics {
		if pod.PodSandboxId != id {
			continue
		}
		for _, of := range pod.ContainerMetrics {
			for _, m := range of.Metrics {
				values[m.Name] = m
			}
		}
		for _, m := range pod.Metrics {
			if values[m.Name] == nil {
				values[m.Name] = m
			}
		}
	}
	return values
}

func checkMetric(t *testing.T, described map[string]*runtime.MetricDescriptor, values map[string]*runtime.Metric, name string, want uint64, labels map[string]string) {
	t.Helper()
	equal(t, name, values[name].GetValue().GetValue(), want)
	for i, key := range described[name].GetLabelKeys() {
		if want, ok := labels[key]; ok {
			equal(t, fmt.Sprintf("%s{%s}", name, key), values[name].GetLabelValues()[i], want)
		}
	}
}

func TestThePeriodAndTheGroupsOfMetricsCanBeConfigured(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) {
		o.Extra = "\n[crio.stats]\ncollection_period = 3600\nincluded_pod_metrics = [\"oom\"]\n"
	})
	p := n.pod(t)
	c := p.start(t, "sleep 100000")
	first := c.stats(t).Cpu.Timestamp
	time.Sleep(10 * time.Millisecond) // a later one would be told from it
	equal(t, "time of the second answer", c.stats(t).Cpu.Timestamp, first)
	r, err := n.cri.Runtime.ListMetricDescriptors(t.Context(), &runtime.ListMetricDescriptorsRequest{})
	ok(t, err)
	var names []string
	for _, d := range r.Descriptors {
		names = append(names, d.Name)
	}
	if want := []string{"container_last_seen", "container_oom_events_total"}; !slices.Equal(names, want) {
		t.Errorf("described: %v", names)
	}
	n.remove(t, p.id)
}

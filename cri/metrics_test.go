package cri

import (
	"slices"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func descriptors(t *testing.T, g *gateway) map[string]*runtime.MetricDescriptor {
	t.Helper()
	r, err := g.rpc.ListMetricDescriptors(within(t), &runtime.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*runtime.MetricDescriptor{}
	for _, d := range r.Descriptors {
		if all[d.Name] != nil || d.Help == "" {
			t.Errorf("%s: twice, or without help", d.Name)
		}
		all[d.Name] = d
	}
	return all
}

// series finds a metric of a subject by name.
func series(metrics []*runtime.Metric, name string) *runtime.Metric {
	for _, m := range metrics {
		if m.Name == name {
			return m
		}
	}
	return nil
}

func podMetricsOf(t *testing.T, g *gateway, pod string) *runtime.PodSandboxMetrics {
	t.Helper()
	r, err := g.rpc.ListPodSandboxMetrics(within(t), &runtime.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.PodMetrics {
		if m.PodSandboxId == pod {
			return m
		}
	}
	t.Fatalf("no metrics of pod %s: %v", pod, r)
	return nil
}

func TestEveryMetricIsDescribedWithLabelsInOrder(t *testing.T) {
	g := newMeasured(t)
	known := descriptors(t, g)
	m := podMetricsOf(t, g, id("a"))
	all := m.Metrics
	for _, c := range m.ContainerMetrics {
		all = append(all, c.Metrics...)
	}
	if len(all) < 20 {
		t.Fatalf("only %d", len(all))
	}
	seen := map[string]bool{}
	for _, one := range all {
		d := known[one.Name]
		if d == nil || len(d.LabelKeys) != len(one.LabelValues) || one.Value == nil {
			t.Errorf("%v is not as described: %v", one, d)
		}
		if key := one.Name + "|" + joined(one.LabelValues); seen[key] {
			t.Errorf("twice: %s", key)
		} else {
			seen[key] = true
		}
	}
	cpu := series(m.ContainerMetrics[0].Metrics, "container_cpu_usage_seconds_total")
	if want := []string{"/kubepods/x", id("1"), "docker.io/library/busybox:1", "shop", "web", "app", "total"}; !slices.Equal(cpu.GetLabelValues(), want) {
		t.Errorf("labels %v", cpu.GetLabelValues())
	}
	if want := []string{"id", "name", "image", "namespace", "pod", "container", "cpu"}; !slices.Equal(known[cpu.GetName()].LabelKeys, want) {
		t.Errorf("keys %v", known[cpu.GetName()].LabelKeys)
	}
	if cpu.MetricType != runtime.MetricType_COUNTER || cpu.Value.Value != 1 || cpu.Timestamp != 0 {
		t.Errorf("%v", cpu)
	}
	net := series(m.Metrics, "container_network_receive_bytes_total")
	if want := []string{"/kubepods/x", id("a"), "", "shop", "web", "", "eth0"}; !slices.Equal(net.GetLabelValues(), want) || net.GetValue().GetValue() != 11 {
		t.Errorf("network %v", net)
	}
	if g.meter.whole == 0 {
		t.Error("metrics were made from half a measurement")
	}
}

func joined(s []string) (all string) {
	for _, one := range s {
		all += one + "\x00"
	}
	return all
}

func TestMetricsAreLeftOutWhereNothingWasMeasured(t *testing.T) {
	g := newMeasured(t)
	b := podMetricsOf(t, g, id("b"))
	if len(b.Metrics) != 0 {
		t.Errorf("a pod without a cgroup and network of its own: %v", b.Metrics)
	}
	if m := series(b.ContainerMetrics[0].Metrics, "container_memory_rss"); m != nil {
		t.Errorf("not measured: %v", m)
	}
	if m := series(b.ContainerMetrics[0].Metrics, "container_fs_usage_bytes"); m != nil {
		t.Errorf("the first walk is not over: %v", m)
	}
	u := g.meter.usages[id("2")]
	u.CPU.Quota = messages.Amount{}
	g.meter.usages[id("2")] = u
	b = podMetricsOf(t, g, id("b"))
	if m := series(b.ContainerMetrics[0].Metrics, "container_cpu_cfs_periods_total"); m != nil {
		t.Errorf("without a quota: %v", m)
	}
	if m := series(b.ContainerMetrics[1].Metrics, "container_cpu_cfs_periods_total"); m.GetValue().GetValue() != 5 {
		t.Errorf("with one: %v", m)
	}
}

func TestWhatWasMeasuredEarlierSaysWhen(t *testing.T) {
	g := newMeasured(t)
	u := g.meter.usages[id("1")]
	u.Kept = true
	g.meter.usages[id("1")] = u
	m := podMetricsOf(t, g, id("a")).ContainerMetrics[0].Metrics
	if got := series(m, "container_memory_usage_bytes").Timestamp; got != measuredAt.UnixNano() {
		t.Errorf("timestamp of a kept measurement: %d", got)
	}
	if got := series(m, "container_fs_usage_bytes").Timestamp; got != g.meter.disks[id("1")].At.UnixNano() {
		t.Errorf("timestamp of a walk: %d", got)
	}
	if got := series(m, "container_last_seen").Value.Value; got != uint64(measuredAt.Unix()) {
		t.Errorf("last seen: %d", got)
	}
}

func TestOnlyTheWantedGroupsAreGiven(t *testing.T) {
	g := newMeasured(t, func(c *Config) { c.Metrics = []string{"network"} })
	known := descriptors(t, g)
	if len(known) != 1+len(networkMetrics) || known["container_last_seen"] == nil {
		t.Errorf("described: %d", len(known))
	}
	m := podMetricsOf(t, g, id("a"))
	if len(m.ContainerMetrics[0].Metrics) != 1 || len(m.Metrics) != 2*len(networkMetrics) {
		t.Errorf("given: %v", m)
	}
	if none := descriptors(t, newMeasured(t, func(c *Config) { c.Metrics = []string{} })); len(none) != 1 {
		t.Errorf("an empty list is none, not all: %d", len(none))
	}
	if _, err := metricsTable([]string{"gpu"}, false); err == nil {
		t.Error("a group that does not exist is taken")
	}
}

func TestWhatOnlyCgroupV2CountsIsDescribedOnlyThere(t *testing.T) {
	v1, v2 := descriptors(t, newMeasured(t)), newMeasured(t, func(c *Config) { c.Meter = &fakeMeter{unified: true} })
	if both := descriptors(t, v2); v1["container_memory_pgscan_total"] != nil || both["container_memory_pgscan_total"] == nil || both["container_memory_rss"] == nil {
		t.Errorf("v1 has %d, v2 has %d", len(v1), len(both))
	}
}

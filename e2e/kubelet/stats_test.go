//go:build kubelet

package kubelet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// dig finds a field of decoded JSON by its path, e.g. "memory.usageBytes".
func dig(v any, path string) (any, bool) {
	for _, key := range strings.Split(path, ".") {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, false
		}
		if v, isMap = m[key]; !isMap {
			return nil, false
		}
	}
	return v, true
}

// named finds the element of a list whose field is so.
func named(list any, field, value string) any {
	all, _ := list.([]any)
	for _, e := range all {
		if got, _ := dig(e, field); got == value {
			return e
		}
	}
	return nil
}

// busy is a pod that has something to be measured in every respect.
func busy(t *testing.T, n *node) *static {
	t.Helper()
	p := n.pod(t, `
volumes: [{name: v, emptyDir: {}}]
containers:
- name: a
  image: IMAGE
  command: [sh, -c, "dd if=/dev/zero of=/root-file bs=1M count=3 conv=fsync; dd if=/dev/zero of=/v/file bs=1M count=2; while :; do echo working; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.2; done"]
  resources: {limits: {cpu: 500m, memory: 64Mi}}
  volumeMounts: [{name: v, mountPath: /v}]
- {name: b, image: IMAGE}
`)
	p.ready(t)
	return p
}

// missing waits until nothing of a list of fields is missing, or zero where it
// must not be ("+" in front), and says what is.
func missing(t *testing.T, what string, look func() any, fields []string) {
	t.Helper()
	var left []string
	eventuallySay(t, func() string {
		left = nil
		v := look()
		for _, f := range fields {
			name := strings.TrimPrefix(f, "+")
			got, found := dig(v, name)
			if !found || (name != f && got == float64(0)) {
				left = append(left, f)
			}
		}
		if len(left) == 0 {
			return ""
		}
		return fmt.Sprintf("of %s are missing (+: or zero): %s", what, strings.Join(left, " "))
	})
}

func summary(t *testing.T, n *node) map[string]any {
	t.Helper()
	text, err := n.kubelet.Get(background, "/stats/summary")
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	var s map[string]any
	ok(t, json.Unmarshal([]byte(text), &s))
	return s
}

// checkSummary checks the whole of /stats/summary for a busy pod.
func checkSummary(t *testing.T, p *static, podFields []string) {
	t.Helper()
	n := p.node
	missing(t, "the node's stats", func() any { return summary(t, n)["node"] }, []string{
		"+cpu.usageCoreNanoSeconds", "+memory.workingSetBytes", "+fs.capacityBytes", "+fs.usedBytes", "+fs.inodes",
		"+runtime.imageFs.usedBytes", "+runtime.imageFs.capacityBytes", "+runtime.imageFs.inodesUsed", "+runtime.containerFs.usedBytes",
	})
	pod := func() any { return named(summary(t, n)["pods"], "podRef.name", p.fullName()) }
	missing(t, "the pod's stats", pod, append(podFields,
		"startTime", "+cpu.usageNanoCores", "+cpu.usageCoreNanoSeconds", "+memory.usageBytes", "+memory.workingSetBytes", "+memory.rssBytes", "memory.majorPageFaults",
		"+ephemeral-storage.usedBytes", "+ephemeral-storage.inodesUsed",
	))
	container := func() any {
		containers, _ := dig(pod(), "containers")
		return named(containers, "name", "a")
	}
	missing(t, "the container's stats", container, []string{
		"startTime", "cpu.time", "+cpu.usageNanoCores", "+cpu.usageCoreNanoSeconds", "memory.time", "+memory.usageBytes", "+memory.workingSetBytes", "+memory.rssBytes",
		"+memory.availableBytes", "+memory.pageFaults", "memory.majorPageFaults",
		"+rootfs.usedBytes", "+rootfs.inodesUsed", "+rootfs.capacityBytes", "+rootfs.availableBytes", "+logs.usedBytes", "+logs.inodesUsed",
	})
	used, _ := dig(container(), "rootfs.usedBytes")
	if b, _ := used.(float64); b < 3<<20 || b > 5<<20 {
		t.Errorf("the container wrote 3 MiB to its root file system, which uses %v bytes", used)
	}
	volume := func() any {
		volumes, _ := dig(pod(), "volume")
		return named(volumes, "name", "v")
	}
	missing(t, "the volume's stats", volume, []string{"+usedBytes", "+capacityBytes", "+inodesUsed"})
}

// As a kubelet is by default it takes a pod's network and processes from
// cAdvisor, which knows containerd and CRI-O by name and no other runtime
// (k8s.io/kubernetes pkg/kubelet/cadvisor): with any other they are absent.
func TestTheStatsSummaryIsComplete(t *testing.T) {
	checkSummary(t, busy(t, theNode(t)), nil)
}

// samples waits until a page of metrics has all of these of a pod.
func samples(t *testing.T, n *node, page, pod string, names []string) string {
	t.Helper()
	var text string
	eventuallySay(t, func() string {
		var err error
		if text, err = n.kubelet.Get(background, page); err != nil {
			return err.Error()
		}
		var left []string
		for _, name := range names {
			if !sampled(text, name, pod) {
				left = append(left, name)
			}
		}
		if len(left) == 0 {
			return ""
		}
		return fmt.Sprintf("of %s are missing for %s: %s", page, pod, strings.Join(left, " "))
	})
	return text
}

func sampled(text, name, pod string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `pod="`+pod+`"`) {
			return true
		}
	}
	return false
}

var resourceMetrics = []string{
	"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds",
	"pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes",
}

func TestResourceMetricsAreComplete(t *testing.T) {
	n := theNode(t)
	text := samples(t, n, "/metrics/resource", busy(t, n).fullName(), resourceMetrics)
	if !strings.Contains(text, "\nresource_scrape_error 0\n") {
		t.Error("the kubelet met an error while it gathered /metrics/resource")
	}
}

// With PodAndContainerStatsFromCRI nothing comes from cAdvisor any more: the
// runtime alone answers for pods and containers.
func TestStatsComeFromTheRuntimeAlone(t *testing.T) {
	n := ownNode(t, nodeOptions{config: map[string]any{"featureGates": map[string]any{"PodAndContainerStatsFromCRI": true}}})
	p := busy(t, n)
	checkSummary(t, p, []string{
		"+memory.pageFaults", "network.name", "+network.rxBytes", "+network.txBytes", "network.rxErrors", "network.txErrors", "+process_stats.process_count",
	})
	samples(t, n, "/metrics/resource", p.fullName(), resourceMetrics)
	samples(t, n, "/metrics/cadvisor", p.fullName(), []string{
		"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total", "container_cpu_cfs_periods_total",
		"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_memory_rss", "container_memory_cache", "container_memory_failcnt", "container_memory_failures_total",
		"container_fs_usage_bytes", "container_fs_limit_bytes",
		"container_network_receive_bytes_total", "container_network_transmit_bytes_total", "container_network_receive_packets_dropped_total",
		"container_processes", "container_threads", "container_file_descriptors", "container_sockets", "container_ulimits_soft",
		"container_spec_memory_limit_bytes", "container_spec_cpu_shares", "container_start_time_seconds", "container_last_seen", "container_oom_events_total",
	})
}

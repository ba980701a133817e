package cri

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metric is a row of the table that both metrics RPCs come from: its descriptor,
// and how its values are read.
type metric struct {
	name, help string
	labels     []string // after baseLabels
	counter    bool
	of         subjects
	unified    bool // only with cgroup v2
	read       func(e *emitter)
}

// subjects says what has a metric.
type subjects int

const (
	ofContainers subjects = 1 << iota
	ofPods                // the pod's cgroup as a whole: with empty container and image, as cAdvisor has it
	ofBoth       = ofContainers | ofPods
)

// baseLabels are on every metric: those that the kubelet puts on cAdvisor's
// (k8s.io/kubernetes pkg/kubelet/server, containerPrometheusLabelsFunc), so
// that dashboards and alerts need not know where the numbers come from.
var baseLabels = []string{"id", "name", "image", "namespace", "pod", "container"}

// MetricGroups are the names that Config.Metrics may have beside AllMetrics.
func MetricGroups() []string {
	var names []string
	for _, g := range metricGroups {
		if g.name != "" {
			names = append(names, g.name)
		}
	}
	return names
}

// AllMetrics stands for all groups.
const AllMetrics = "all"

// metricsTable picks the rows of the wanted groups that this node can fill.
func metricsTable(groups []string, unified bool) (table []metric, err error) {
	for _, name := range groups {
		if name != AllMetrics && !slices.Contains(MetricGroups(), name) {
			return nil, fmt.Errorf("cri gateway: %q is no group of metrics; there are %s and %s", name, AllMetrics, strings.Join(MetricGroups(), ", "))
		}
	}
	for _, g := range metricGroups {
		if g.name != "" && !slices.Contains(groups, g.name) && !slices.Contains(groups, AllMetrics) {
			continue
		}
		for _, m := range g.metrics {
			if unified || !m.unified {
				table = append(table, m)
			}
		}
	}
	return table, nil
}

// ListMetricDescriptors names all that ListPodSandboxMetrics can give. The
// kubelet asks once, when it starts.
func (s *Server) ListMetricDescriptors(context.Context, *runtime.ListMetricDescriptorsRequest) (*runtime.ListMetricDescriptorsResponse, error) {
	response := &runtime.ListMetricDescriptorsResponse{}
	for _, m := range s.metrics {
		response.Descriptors = append(response.Descriptors, &runtime.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: slices.Concat(baseLabels, m.labels),
		})
	}
	return response, nil
}

// ListPodSandboxMetrics measures all pods that are alive.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtime.ListPodSandboxMetricsRequest) (*runtime.ListPodSandboxMetricsResponse, error) {
	all, err := s.listMetrics(ctx)
	return &runtime.ListPodSandboxMetricsResponse{PodMetrics: all}, err
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pieces.
func (s *Server) StreamPodSandboxMetrics(_ *runtime.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxMetricsResponse]) error {
	all, err := s.listMetrics(stream.Context())
	if err != nil {
		return err
	}
	return inBatches(stream.Context(), all, s.config.StreamBatch, func(items []*runtime.PodSandboxMetrics) error {
		return stream.Send(&runtime.StreamPodSandboxMetricsResponse{PodSandboxMetrics: items})
	})
}

func (s *Server) listMetrics(ctx context.Context) ([]*runtime.PodSandboxMetrics, error) {
	pods, err := s.measurePods(ctx, s.livePods(func(*messages.PodSnapshot) bool { return true }), true)
	if err != nil {
		return nil, err
	}
	images := imagesByID(s.node.View())
	all := make([]*runtime.PodSandboxMetrics, 0, len(pods))
	for i := range pods {
		all = append(all, s.podMetrics(&pods[i], images))
	}
	return all, nil
}

func (s *Server) podMetrics(m *measuredPod, images map[string]messages.Image) *runtime.PodSandboxMetrics {
	meta := m.pod.Config.GetMetadata()
	cgroup := m.pod.Cgroup
	if m.own {
		cgroup = m.usage.Cgroup
	}
	pod := emitter{usage: &m.usage, network: m.network, base: []string{cgroup, m.pod.ID, "", meta.GetNamespace(), meta.GetName(), ""}}
	of := ofPods
	if !m.own {
		pod.usage = &messages.Usage{} // sums of containers are for who asks to make
	}
	response := &runtime.PodSandboxMetrics{PodSandboxId: m.pod.ID, Metrics: pod.all(s.metrics, of)}
	for i := range m.containers {
		c := &m.containers[i]
		one := emitter{usage: &c.usage, disk: &c.disk, container: c.container, base: []string{
			c.usage.Cgroup, c.container.ID,
			printable(shownImage(c.container.Config.GetImage(), images[c.container.ImageID]).GetImage()),
			meta.GetNamespace(), meta.GetName(), c.container.Config.GetMetadata().GetName(),
		}}
		response.ContainerMetrics = append(response.ContainerMetrics, &runtime.ContainerMetrics{
			ContainerId: c.container.ID, Metrics: one.all(s.metrics, ofContainers),
		})
	}
	return response
}

// emitter makes the metrics of one pod or container. disk and container are
// nil for a pod, network is for a container and for a pod without.
type emitter struct {
	base      []string
	usage     *messages.Usage
	network   *messages.NetworkUsage
	disk      *messages.DiskUsage
	container *messages.ContainerSnapshot

	row *metric
	out []*runtime.Metric
}

func (e *emitter) all(table []metric, of subjects) []*runtime.Metric {
	e.out = make([]*runtime.Metric, 0, len(table)+16)
	for i := range table {
		if table[i].of&of == 0 {
			continue
		}
		e.row = &table[i]
		e.row.read(e)
	}
	return e.out
}

// add gives a value, with those of the row's own labels in their order.
func (e *emitter) add(n uint64, labels ...string) {
	values := e.base
	if len(labels) > 0 {
		values = slices.Concat(e.base, labels)
	}
	kind := runtime.MetricType_GAUGE
	if e.row.counter {
		kind = runtime.MetricType_COUNTER
	}
	e.out = append(e.out, &runtime.Metric{
		Name: e.row.name, MetricType: kind, LabelValues: values, Value: exactly(n), Timestamp: e.timestamp(),
	})
}

// timestamp is 0 for what was measured for this very call (cri-api, Metric).
func (e *emitter) timestamp() int64 {
	switch {
	case e.row.name == fsUsage:
		return nanos(e.disk.At) // by a walk that may have been a while ago
	case e.usage.Kept:
		return nanos(e.usage.At)
	case e.network != nil && e.network.Kept:
		return nanos(e.network.At)
	}
	return 0
}

// amount gives a value if it was measured.
func (e *emitter) amount(a messages.Amount, labels ...string) {
	if a.Known {
		e.add(a.N, labels...)
	}
}

// seconds gives a time that was measured in nanoseconds. CRI has whole numbers
// only, so it is cut to whole seconds, as CRI-O and containerd do.
func (e *emitter) seconds(a messages.Amount, labels ...string) {
	a.N /= uint64(time.Second)
	e.amount(a, labels...)
}

package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStats measures one container. One that does not run has only what
// stays on the disk.
func (s *Server) ContainerStats(ctx context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	m := measured{container: c}
	if c.Pid > 0 && c.CRIState() != runtime.ContainerState_CONTAINER_EXITED {
		m.usage, err = s.config.Meter.Container(ctx, c, false)
		if m.runs = err == nil; !m.runs && messages.KindOf(err) != messages.NotFound {
			return nil, err
		}
	}
	patient, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	m.disk = s.disk(patient, c)
	return &runtime.ContainerStatsResponse{Stats: containerStats(&m)}, ctx.Err()
}

// ListContainerStats measures the running containers that match.
func (s *Server) ListContainerStats(ctx context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	stats, err := s.listContainerStats(ctx, r.GetFilter())
	return &runtime.ListContainerStatsResponse{Stats: stats}, err
}

// StreamContainerStats is ListContainerStats in pieces.
func (s *Server) StreamContainerStats(r *runtime.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtime.StreamContainerStatsResponse]) error {
	stats, err := s.listContainerStats(stream.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(stream.Context(), stats, s.config.StreamBatch, func(items []*runtime.ContainerStats) error {
		return stream.Send(&runtime.StreamContainerStatsResponse{ContainerStats: items})
	})
}

func (s *Server) listContainerStats(ctx context.Context, filter *runtime.ContainerStatsFilter) ([]*runtime.ContainerStats, error) {
	var wanted []*messages.ContainerSnapshot
	for _, c := range s.node.View().Containers() {
		if strings.HasPrefix(c.ID, filter.GetId()) && strings.HasPrefix(c.Pod, filter.GetPodSandboxId()) &&
			hasLabels(c.Config.GetLabels(), filter.GetLabelSelector()) {
			wanted = append(wanted, c)
		}
	}
	patient, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	all, err := s.measure(ctx, patient, wanted, false)
	stats := make([]*runtime.ContainerStats, 0, len(all))
	for i := range all {
		stats = append(stats, containerStats(&all[i]))
	}
	return stats, err
}

// PodSandboxStats measures one pod, ready or not.
func (s *Server) PodSandboxStats(ctx context.Context, r *runtime.PodSandboxStatsRequest) (*runtime.PodSandboxStatsResponse, error) {
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	all, err := s.measurePods(ctx, []*messages.PodSnapshot{pod}, false)
	if err != nil {
		return nil, err
	}
	return &runtime.PodSandboxStatsResponse{Stats: podStats(&all[0])}, nil
}

// ListPodSandboxStats measures the pods that match and are alive: ready, or
// with a container that still runs.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	stats, err := s.listPodStats(ctx, r.GetFilter())
	return &runtime.ListPodSandboxStatsResponse{Stats: stats}, err
}

// StreamPodSandboxStats is ListPodSandboxStats in pieces.
func (s *Server) StreamPodSandboxStats(r *runtime.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxStatsResponse]) error {
	stats, err := s.listPodStats(stream.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(stream.Context(), stats, s.config.StreamBatch, func(items []*runtime.PodSandboxStats) error {
		return stream.Send(&runtime.StreamPodSandboxStatsResponse{PodSandboxStats: items})
	})
}

func (s *Server) listPodStats(ctx context.Context, filter *runtime.PodSandboxStatsFilter) ([]*runtime.PodSandboxStats, error) {
	all, err := s.measurePods(ctx, s.livePods(func(p *messages.PodSnapshot) bool {
		return strings.HasPrefix(p.ID, filter.GetId()) && hasLabels(p.Config.GetLabels(), filter.GetLabelSelector())
	}), false)
	stats := make([]*runtime.PodSandboxStats, 0, len(all))
	for i := range all {
		stats = append(stats, podStats(&all[i]))
	}
	return stats, err
}

func (s *Server) livePods(wanted func(*messages.PodSnapshot) bool) (live []*messages.PodSnapshot) {
	view := s.node.View()
	for _, p := range view.Pods() {
		if !wanted(p) {
			continue
		}
		alive := p.CRIState() == runtime.PodSandboxState_SANDBOX_READY
		for _, c := range view.ContainersOf(p.ID) {
			alive = alive || runs(c)
		}
		if alive {
			live = append(live, p)
		}
	}
	return live
}

func runs(c *messages.ContainerSnapshot) bool {
	return c.CRIState() == runtime.ContainerState_CONTAINER_RUNNING && c.Pid > 0
}

// measured is a container with what was measured of it.
type measured struct {
	container *messages.ContainerSnapshot
	usage     messages.Usage
	runs      bool // usage was measured
	disk      messages.DiskUsage
}

// measuredPod is the same of a pod. own says that usage is of its own cgroup;
// else it is the sum of its containers.
type measuredPod struct {
	pod        *messages.PodSnapshot
	usage      messages.Usage
	own        bool
	network    *messages.NetworkUsage
	containers []measured
}

// diskPatience is how long an RPC waits in all for the first measurements of
// disks: a list after the daemon's start must not wait for each of them.
const diskPatience = time.Second

// measure measures those of the containers that run, waiting for disks no
// longer than patient lasts. One that ends meanwhile is left out; one that
// cannot be measured is logged and left out, and is an error only when there
// is nothing else to answer with.
func (s *Server) measure(ctx, patient context.Context, containers []*messages.ContainerSnapshot, whole bool) (all []measured, err error) {
	for _, c := range containers {
		if !runs(c) {
			continue
		}
		usage, failed := s.config.Meter.Container(ctx, c, whole)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("measuring containers: %w", ctx.Err())
		case failed == nil:
			all = append(all, measured{container: c, usage: usage, runs: true, disk: s.disk(patient, c)})
		case messages.KindOf(failed) != messages.NotFound:
			s.log.WarnContext(ctx, "a container could not be measured", "container", c.ID, "error", failed, "trace", callOf(ctx).Trace)
			err = failed
		}
	}
	if len(all) > 0 {
		err = nil
	}
	return all, err
}

// disk never fails a measurement: what is not known is left out.
func (s *Server) disk(ctx context.Context, c *messages.ContainerSnapshot) messages.DiskUsage {
	disk, err := s.config.Meter.Disk(ctx, c)
	if err != nil {
		s.log.WarnContext(ctx, "the disk use of a container could not be measured", "container", c.ID, "error", err, "trace", callOf(ctx).Trace)
	}
	return disk
}

func (s *Server) measurePods(ctx context.Context, pods []*messages.PodSnapshot, whole bool) ([]measuredPod, error) {
	patient, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	view := s.node.View()
	networks := s.config.Meter.Networks(ctx, pods)
	all := make([]measuredPod, 0, len(pods))
	for _, p := range pods {
		m := measuredPod{pod: p}
		var err error
		if m.containers, err = s.measure(ctx, patient, view.ContainersOf(p.ID), whole); err != nil {
			return nil, err
		}
		if n, ok := networks[p.ID]; ok {
			m.network = &n
		}
		if m.usage, m.own, err = s.config.Meter.Pod(ctx, p, whole); err != nil {
			m.own = false // a pod without containers may have no cgroup yet, or no more
			if messages.KindOf(err) != messages.NotFound && ctx.Err() == nil {
				s.log.WarnContext(ctx, "a pod's cgroup could not be measured; its containers are added up", "pod", p.ID, "error", err, "trace", callOf(ctx).Trace)
			}
		}
		if !m.own {
			m.usage = sum(m.containers)
		}
		all = append(all, m)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("measuring pods: %w", err)
	}
	return all, nil
}

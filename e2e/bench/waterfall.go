package main

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/e2e/plot"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// floors are what a step's own work took by itself, in milliseconds: the
// design's measurements (shared/design.md §3).
var floors = map[string]float64{
	"pod namespaces":    0.4, // a network namespace, and lo
	"pod network":       7.4, // bridge and host-local, executed by hand
	"container rootfs":  0.8, // a directory and an overlay mount
	"container process": 11,  // libcontainer alone, its seccomp program compiled
}

// waterfall starts a pod as the kubelet would and tells its steps.
func waterfall(ctx context.Context, s *stage) (bars []plot.Bar, err error) {
	cri, err := harness.Dial(s.daemon.Socket)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	debug, err := harness.Dial(s.daemon.DebugSocket)
	if err != nil {
		return nil, err
	}
	defer debug.Close()
	alone := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	profile := &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	pod := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "waterfall", Uid: "waterfall", Namespace: "bench"},
		Linux:    &runtime.LinuxPodSandboxConfig{CgroupParent: "/" + s.lab.Name, SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: alone, Seccomp: profile}},
	}
	p, err := cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, stopped := cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.PodSandboxId})
		_, removed := cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.PodSandboxId})
		err = errors.Join(err, stopped, removed)
	}()
	c, err := cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"}, Image: &runtime.ImageSpec{Image: s.image}, Command: []string{"sleep", "100000"},
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: alone, Seccomp: profile}},
	}})
	if err != nil {
		return nil, err
	}
	if _, err := cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return nil, err
	}
	r, err := debugv1.NewIntrospectionClient(debug.Conn).Timeline(ctx, &debugv1.TimelineRequest{PodSandboxId: p.PodSandboxId})
	if err != nil {
		return nil, err
	}
	return barsOf(r.GetLives()), nil
}

// barsOf are the steps that took time, by their begin.
func barsOf(lives []*debugv1.Life) (bars []plot.Bar) {
	begin := math.Inf(1)
	for _, life := range lives {
		what := "pod "
		if life.GetContainerId() != "" {
			what = "container "
		}
		for _, e := range life.GetEdges() {
			if e.GetStep() == "" || e.GetTook().AsDuration() == 0 {
				continue
			}
			end := float64(e.GetAt().AsTime().UnixNano()) / float64(time.Millisecond)
			start := end - float64(e.GetTook().AsDuration())/float64(time.Millisecond)
			begin = min(begin, start)
			bar := plot.Bar{Text: what + e.GetStep(), Start: start, End: end}
			if end-start > 0.5 { // shorter is the record of a step that may take long
				bar.Floor = floors[bar.Text]
			}
			bars = append(bars, bar)
		}
	}
	for i := range bars {
		bars[i].Start -= begin
		bars[i].End -= begin
	}
	return bars
}

package cri

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContainerFiltersAreAnded(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	running := &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING}
	for _, c := range []struct {
		filter *runtime.ContainerFilter
		want   string
	}{
		{nil, "c1 c2 d3"},
		{&runtime.ContainerFilter{Id: "c"}, "c1 c2"},
		{&runtime.ContainerFilter{Id: id("9")}, ""},
		{&runtime.ContainerFilter{PodSandboxId: id("aa1")}, "c1 c2"},
		{&runtime.ContainerFilter{PodSandboxId: "ab"}, "d3"},
		{&runtime.ContainerFilter{PodSandboxId: "9"}, ""},
		{&runtime.ContainerFilter{State: running}, "c1 d3"},
		{&runtime.ContainerFilter{State: running, PodSandboxId: "aa1"}, "c1"},
		{&runtime.ContainerFilter{LabelSelector: map[string]string{"app": "web"}}, "c1 c2"},
		{&runtime.ContainerFilter{LabelSelector: map[string]string{"app": "web", "x": ""}}, "c2"},
		{&runtime.ContainerFilter{Id: "d3", LabelSelector: map[string]string{"app": "web"}}, ""},
	} {
		list, err := g.rpc.ListContainers(within(t), &runtime.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list.Containers {
			got = append(got, p.Id[:2])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: got %v, want %v", c.filter, got, c.want)
		}
	}
}

func TestAListedContainerIsAsItWasGiven(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	list, err := g.rpc.ListContainers(within(t), &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{Id: "c1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtime.Container{
		Id: id("c1"), PodSandboxId: id("aa1"), Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 1},
		Image: &runtime.ImageSpec{Image: id("1a")}, ImageRef: sampleImage().RepoDigests[0], ImageId: id("1a"),
		State: runtime.ContainerState_CONTAINER_RUNNING, CreatedAt: 1700000001e9,
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "as given"},
	}
	if !proto.Equal(list.Containers[0], want) {
		t.Errorf("got  %v\nwant %v", list.Containers[0], want)
	}
}

func TestContainerStatusIsComplete(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	c := g.view.containers[1]
	c.FinishedAt, c.ExitCode, c.Reason, c.Message = time.Unix(1700000003, 0), 137, "OOMKilled", "bad bytes \xff"
	got, err := g.rpc.ContainerStatus(within(t), &runtime.ContainerStatusRequest{ContainerId: "c2", Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtime.ContainerStatus{
		Id: id("c2"), Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 1}, State: runtime.ContainerState_CONTAINER_EXITED,
		CreatedAt: 1700000001e9, StartedAt: 1700000002e9, FinishedAt: 1700000003e9, ExitCode: 137,
		Image: &runtime.ImageSpec{Image: "docker.io/library/busybox:1"}, ImageRef: sampleImage().RepoDigests[0], ImageId: id("1a"),
		Reason: "OOMKilled", Message: "bad bytes \uFFFD", Labels: map[string]string{"app": "web", "x": ""},
		Annotations: map[string]string{"note": "as given"}, LogPath: "/var/log/pods/x/0.log",
		Mounts:     []*runtime.Mount{{ContainerPath: "/data", HostPath: "/srv"}},
		Resources:  &runtime.ContainerResources{Linux: &runtime.LinuxContainerResources{CpuShares: 512}},
		User:       &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{Uid: 7}},
		StopSignal: runtime.Signal_SIGNAL_SIGRTMINPLUS3,
	}
	if !proto.Equal(got.Status, want) {
		t.Errorf("got  %v\nwant %v", got.Status, want)
	}
	var info struct {
		Pid       int
		SandboxID string
		Config    struct{ Mounts []any }
	}
	if err := json.Unmarshal([]byte(got.Info["info"]), &info); err != nil || info.Pid != 4711 || info.SandboxID != id("aa1") || len(info.Config.Mounts) != 1 {
		t.Errorf("info %v: %+v", err, info)
	}
}

func TestAContainerThatDidNotStartHasNoTimesButItsCreation(t *testing.T) {
	g := newGateway(t)
	c := sampleContainer("c1", "aa1", messages.ContainerCreated, nil)
	c.StartedAt, c.StopSignal = time.Time{}, ""
	g.view.containers = []*messages.ContainerSnapshot{c}
	got, err := g.rpc.ContainerStatus(within(t), &runtime.ContainerStatusRequest{ContainerId: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	s := got.Status
	if s.CreatedAt <= 0 || s.StartedAt != 0 || s.FinishedAt != 0 || s.State != runtime.ContainerState_CONTAINER_CREATED || s.StopSignal != 0 {
		t.Errorf("got %v", s)
	}
	// Its image has been removed: what is known of it is still there.
	if s.ImageRef != id("1a") || s.ImageId != id("1a") || s.Image.Image != id("1a") {
		t.Errorf("image %v, ref %q", s.Image, s.ImageRef)
	}
}

func TestTheNameTheUserGaveIsShown(t *testing.T) {
	spec := &runtime.ImageSpec{Image: id("1a"), UserSpecifiedImage: "busybox:1"}
	if got := shownImage(spec, sampleImage()); got.Image != "busybox:1" || got.UserSpecifiedImage != "busybox:1" {
		t.Errorf("got %v", got)
	}
	if spec.Image != id("1a") {
		t.Error("the snapshot was changed")
	}
}

func TestContainerRequestsCarryFullIds(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	g.answer = func(_ context.Context, r any) (any, error) {
		switch r.(type) {
		case messages.ExecSync:
			return messages.ExecResult{Stdout: []byte("out\xff"), Stderr: []byte("err"), ExitCode: 3}, nil
		case messages.CreateContainer:
			return id("ee"), nil
		}
		return messages.None{}, nil
	}
	ctx, pod, c := within(t), id("aa1"), id("c1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	created, err := g.rpc.CreateContainer(ctx, createRequest("aa"))
	must(err)
	if r := g.last(t).(messages.CreateContainer); r.Pod != pod || created.ContainerId != id("ee") {
		t.Errorf("create: pod %q, id %q", r.Pod, created.ContainerId)
	}
	_, err = g.rpc.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: "c1"})
	must(err)
	if r := g.last(t).(messages.StartContainer); r.Pod != pod || r.Container != c {
		t.Errorf("start: %+v", r)
	}
	_, err = g.rpc.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: "c1", Timeout: 12})
	must(err)
	if r := g.last(t).(messages.StopContainer); r.Pod != pod || r.Container != c || r.Grace != 12*time.Second {
		t.Errorf("stop: %+v", r)
	}
	_, err = g.rpc.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: "c1"})
	must(err)
	if r := g.last(t).(messages.RemoveContainer); r.Pod != pod || r.Container != c {
		t.Errorf("remove: %+v", r)
	}
	_, err = g.rpc.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: "c1"})
	must(err)
	if r := g.last(t).(messages.ReopenLog); r.Pod != pod || r.Container != c {
		t.Errorf("reopen: %+v", r)
	}
	out, err := g.rpc.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: "c1", Cmd: []string{"ls", "/"}, Timeout: 4})
	must(err)
	r := g.last(t).(messages.ExecSync)
	if r.Container != c || r.Timeout != 4*time.Second || strings.Join(r.Command, " ") != "ls /" {
		t.Errorf("exec: %+v", r)
	}
	if string(out.Stdout) != "out\xff" || string(out.Stderr) != "err" || out.ExitCode != 3 {
		t.Errorf("exec: %v", out)
	}
}

// The kubelet's client takes 16 MiB; each stream may have as much (cri-api).
func TestABigExecOutputFitsIntoWhatTheKubeletTakes(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	const most = 16 << 20
	for name, c := range map[string]struct{ out, err, wantOut, wantErr int }{
		"small":            {10, 20, 10, 20},
		"stdout alone":     {most, 0, maxCapture, 0},
		"stderr alone":     {0, most, 0, maxCapture},
		"both":             {most, most, maxCapture / 2, maxCapture / 2},
		"stderr is spared": {most, 1 << 20, maxCapture - 1<<20, 1 << 20},
	} {
		g.answer = func(context.Context, any) (any, error) {
			return messages.ExecResult{Stdout: make([]byte, c.out), Stderr: make([]byte, c.err)}, nil
		}
		r, err := g.rpc.ExecSync(within(t), &runtime.ExecSyncRequest{ContainerId: "c1", Cmd: []string{"x"}}, maxReceive(most))
		if err != nil || len(r.Stdout) != c.wantOut || len(r.Stderr) != c.wantErr {
			t.Errorf("%s: %d and %d bytes, %v", name, len(r.GetStdout()), len(r.GetStderr()), err)
		}
	}
}

package cri

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPanicIsContained(t *testing.T) {
	g := newGateway(t)
	g.view.panics = true
	_, err := g.rpc.ListPodSandbox(within(t), &runtime.ListPodSandboxRequest{})
	if status.Code(err) != codes.Internal {
		t.Fatalf("unary: %v", err)
	}
	stream, err := g.rpc.StreamPodSandboxes(within(t), &runtime.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Fatalf("stream: %v", err)
	}
	if log := g.log.String(); !strings.Contains(log, "a bug in the view") || !strings.Contains(log, "pod_view.go") {
		t.Errorf("the log has no panic with its stack: %s", log)
	}
	g.view.panics = false
	if _, err := g.rpc.ListPodSandbox(within(t), &runtime.ListPodSandboxRequest{}); err != nil {
		t.Errorf("the server did not live on: %v", err)
	}
	if len(g.server.lanes[reads]) != 0 {
		t.Error("a panic kept its slot")
	}
}

// hold makes the node answer nothing until the test ends or the caller gives up.
func hold(g *gateway, t *testing.T) {
	t.Helper()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	g.answer = func(ctx context.Context, _ any) (any, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-release:
			return nil, messages.Errorf(messages.Unavailable, "the test has ended")
		}
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestCreatesAtTheirLimitKeepNobodyElseOut(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits = Limits{Work: 2} })
	g.view.pods = []*messages.PodSnapshot{samplePod("a", messages.PodReady, nil)}
	hold(g, t)
	for range 2 {
		go g.rpc.RunPodSandbox(within(t), runPodRequest())
	}
	waitFor(t, "two creates under way", func() bool { return g.count() == 2 })

	if _, err := g.rpc.RunPodSandbox(within(t), runPodRequest()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a third create: %v", err)
	}
	if _, err := g.rpc.ListPodSandbox(within(t), &runtime.ListPodSandboxRequest{}); err != nil {
		t.Errorf("a list: %v", err)
	}
	go g.rpc.StopPodSandbox(within(t), &runtime.StopPodSandboxRequest{PodSandboxId: id("a")})
	waitFor(t, "a stop reaches the node", func() bool { return g.count() == 3 })
}

func TestASlotIsGivenBackWhenTheCallerGoesAway(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits = Limits{Work: 1} })
	hold(g, t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := g.rpc.RunPodSandbox(ctx, runPodRequest())
		ended <- err
	}()
	waitFor(t, "the create is under way", func() bool { return g.count() == 1 })
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	waitFor(t, "the slot is free", func() bool { return len(g.server.lanes[work]) == 0 })
}

func TestTheCallersDeadlineGoesWithTheMessage(t *testing.T) {
	g := newGateway(t)
	ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
	defer cancel()
	if _, err := g.rpc.RunPodSandbox(ctx, runPodRequest()); err != nil {
		t.Fatal(err)
	}
	left := time.Until(g.last(t).(messages.RunPod).Deadline)
	if left < 5*time.Second || left > 7*time.Second {
		t.Errorf("%v left of 7s", left)
	}
}

func TestACallerWithoutDeadlineGetsTheKubeletsDefault(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Deadline = 100 * time.Second })
	g.view.pods = []*messages.PodSnapshot{samplePod("a", messages.PodReady, nil)}
	g.view.containers = []*messages.ContainerSnapshot{sampleContainer("c", "a", messages.ContainerRunning, nil)}
	ctx := context.Background()
	for _, c := range []struct {
		name string
		call func()
		want time.Duration // 0: none
	}{
		{"run", func() { g.rpc.RunPodSandbox(ctx, runPodRequest()) }, 200 * time.Second},
		{"stop pod", func() { g.rpc.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id("a")}) }, 100 * time.Second},
		{"stop", func() {
			g.rpc.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id("c"), Timeout: 30})
		}, 130 * time.Second},
		{"exec", func() {
			g.rpc.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id("c"), Cmd: []string{"true"}, Timeout: 5})
		}, 105 * time.Second},
		{"exec without end", func() {
			g.rpc.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id("c"), Cmd: []string{"true"}})
		}, 0},
		{"pull", func() {
			g.img.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "busybox"}})
		}, 0},
	} {
		before := g.count()
		c.call()
		if g.count() != before+1 {
			t.Fatalf("%s: the node was not asked", c.name)
		}
		until := g.last(t).(interface{ Until() time.Time }).Until()
		if c.want == 0 {
			if !until.IsZero() {
				t.Errorf("%s: has the deadline %v", c.name, until)
			}
		} else if left := time.Until(until); left > c.want || left < c.want-5*time.Second {
			t.Errorf("%s: %v left, want %v", c.name, left, c.want)
		}
	}
}

func TestANodeThatHangsEndsWithTheDeadline(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Deadline = 20 * time.Millisecond })
	hold(g, t)
	_, err := g.rpc.RunPodSandbox(context.Background(), runPodRequest())
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestTheLogSaysWhatWasAskedAndKeepsSecrets(t *testing.T) {
	g := newGateway(t)
	ctx := metadata.AppendToOutgoingContext(within(t), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	g.rpc.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	g.rpc.RunPodSandbox(ctx, runPodRequest())
	g.rpc.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: "feed"})
	g.img.PullImage(ctx, &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: "busybox"}, Auth: &runtime.AuthConfig{Username: "ann-the-user", Password: "hunter2"},
	})
	waitFor(t, "four log lines", func() bool { return strings.Count(g.log.String(), "msg=rpc") == 4 })
	log := g.log.String()
	for _, want := range []string{
		"level=DEBUG msg=rpc method=ListPodSandbox code=OK",
		"level=INFO msg=rpc method=RunPodSandbox",
		"pod=" + strings.Repeat("e", 64) + " namespace=shop name=web",
		"level=WARN msg=rpc method=ContainerStatus code=NotFound",
		"container=feed",
		"image=busybox",
		"trace=0af7651916cd43dd8448eb211c80319c",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "hunter2") || strings.Contains(log, "ann-the-user") {
		t.Error("credentials are in the log")
	}
	if trace := g.last(t).(messages.PullImage).Trace; trace != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("the request's trace is %q", trace)
	}
}

func TestStoppingEndsEventStreamsAndWaitsForRPCs(t *testing.T) {
	g := newGateway(t)
	release := make(chan struct{})
	g.answer = func(context.Context, any) (any, error) { <-release; return strings.Repeat("e", 64), nil }
	events, err := g.rpc.GetContainerEvents(within(t), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := g.rpc.RunPodSandbox(within(t), runPodRequest())
		answered <- err
	}()
	waitFor(t, "the RPC and the stream are under way", func() bool { return g.count() == 1 && len(g.server.lanes[watches]) == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- g.server.GracefulStop(within(t)) }()
	if _, err := events.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the RPC under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestStoppingIsNotHeldUpForEver(t *testing.T) {
	g := newGateway(t)
	hold(g, t)
	go g.rpc.RunPodSandbox(within(t), runPodRequest())
	waitFor(t, "the RPC is under way", func() bool { return g.count() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.server.GracefulStop(ctx); err == nil {
		t.Error("stop says nothing was cut off")
	}
}

func TestAServerWithoutItsDefaultHandlerIsNotMade(t *testing.T) {
	_, err := New(Config{Node: &fakeNode{}, Meter: &fakeMeter{}, DefaultHandler: "runc", Handlers: []Handler{{Name: "crun"}}})
	if err == nil || !strings.Contains(err.Error(), "runc") {
		t.Errorf("got %v", err)
	}
}

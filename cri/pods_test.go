package cri

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func twoPods(g *gateway) {
	g.view.pods = []*messages.PodSnapshot{
		samplePod("aa1", messages.PodReady, map[string]string{"app": "web", "tier": "front"}),
		samplePod("ab2", messages.PodNotReady, map[string]string{"app": "web"}),
	}
	g.view.containers = []*messages.ContainerSnapshot{
		sampleContainer("c1", "aa1", messages.ContainerRunning, map[string]string{"app": "web"}),
		sampleContainer("c2", "aa1", messages.ContainerExited, map[string]string{"app": "web", "x": ""}),
		sampleContainer("d3", "ab2", messages.ContainerStopping, nil),
	}
	g.view.images = []messages.Image{sampleImage()}
}

func podState(s runtime.PodSandboxState) *runtime.PodSandboxStateValue {
	return &runtime.PodSandboxStateValue{State: s}
}

func TestPodFiltersAreAnded(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	ready, notReady := podState(runtime.PodSandboxState_SANDBOX_READY), podState(runtime.PodSandboxState_SANDBOX_NOTREADY)
	for _, c := range []struct {
		filter *runtime.PodSandboxFilter
		want   string
	}{
		{nil, "aa1 ab2"},
		{&runtime.PodSandboxFilter{}, "aa1 ab2"},
		{&runtime.PodSandboxFilter{Id: id("aa1")}, "aa1"},
		{&runtime.PodSandboxFilter{Id: "ab"}, "ab2"},
		{&runtime.PodSandboxFilter{Id: "a"}, "aa1 ab2"},
		{&runtime.PodSandboxFilter{Id: "ffff"}, ""},
		{&runtime.PodSandboxFilter{State: ready}, "aa1"},
		{&runtime.PodSandboxFilter{State: notReady}, "ab2"},
		{&runtime.PodSandboxFilter{State: notReady, Id: "aa1"}, ""},
		{&runtime.PodSandboxFilter{LabelSelector: map[string]string{"app": "web"}}, "aa1 ab2"},
		{&runtime.PodSandboxFilter{LabelSelector: map[string]string{"app": "we"}}, ""},
		{&runtime.PodSandboxFilter{LabelSelector: map[string]string{"app": "web", "tier": "front"}}, "aa1"},
		{&runtime.PodSandboxFilter{LabelSelector: map[string]string{"none": ""}}, ""},
	} {
		list, err := g.rpc.ListPodSandbox(within(t), &runtime.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range list.Items {
			got = append(got, p.Id[:3])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: got %v, want %v", c.filter, got, c.want)
		}
	}
}

func TestAListedPodIsAsItWasGiven(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	list, err := g.rpc.ListPodSandbox(within(t), &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{Id: "aa1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtime.PodSandbox{
		Id: id("aa1"), State: runtime.PodSandboxState_SANDBOX_READY, CreatedAt: 1700000000_000000005, RuntimeHandler: "native",
		Metadata:    &runtime.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1", Attempt: 3},
		Labels:      map[string]string{"app": "web", "tier": "front"},
		Annotations: map[string]string{"note": "as given"},
	}
	if !proto.Equal(list.Items[0], want) {
		t.Errorf("got  %v\nwant %v", list.Items[0], want)
	}
}

func TestPodStatusHasAddressesNamespacesAndContainers(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	got, err := g.rpc.PodSandboxStatus(within(t), &runtime.PodSandboxStatusRequest{PodSandboxId: "aa", Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	s := got.Status
	if s.Network.Ip != "10.1.0.2" || len(s.Network.AdditionalIps) != 2 || s.Network.AdditionalIps[0].Ip != "fd00::2" {
		t.Errorf("network %v", s.Network)
	}
	if s.Linux.Namespaces.Options.Pid != runtime.NamespaceMode_CONTAINER || s.RuntimeHandler != "native" {
		t.Errorf("namespaces %v, handler %q", s.Linux, s.RuntimeHandler)
	}
	if len(got.ContainersStatuses) != 2 || got.Timestamp <= 0 || s.CreatedAt <= 0 {
		t.Errorf("%d containers, timestamp %d", len(got.ContainersStatuses), got.Timestamp)
	}
	if c := got.ContainersStatuses; len(c) == 2 && c[0].Id != id("c2") { // the view's are the oldest first
		t.Errorf("the newest container comes first, got %s", c[0].Id)
	}
	var info struct {
		SandboxID string
		Timeline  []messages.Edge
		Config    struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(got.Info["info"]), &info); err != nil || info.SandboxID != id("aa1") || len(info.Timeline) != 1 || info.Config.Metadata.Name != "web" {
		t.Errorf("info %v: %+v in %s", err, info, got.Info["info"])
	}
}

func TestAPodOnTheNodesNetworkHasAnEmptyNetworkStatus(t *testing.T) {
	g := newGateway(t)
	pod := samplePod("aa1", messages.PodReady, nil)
	pod.IPs = nil
	g.view.pods = []*messages.PodSnapshot{pod}
	got, err := g.rpc.PodSandboxStatus(within(t), &runtime.PodSandboxStatusRequest{PodSandboxId: "aa1"})
	if err != nil || got.Status.Network == nil || got.Status.Network.Ip != "" || len(got.Info) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestStopAndRemoveOfTheUnknownSucceed(t *testing.T) {
	g := newGateway(t)
	ctx := within(t)
	calls := map[string]func(id string) error{
		"StopPodSandbox": func(id string) error {
			_, err := g.rpc.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id})
			return err
		},
		"RemovePodSandbox": func(id string) error {
			_, err := g.rpc.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		},
		"StopContainer": func(id string) error {
			_, err := g.rpc.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id})
			return err
		},
		"RemoveContainer": func(id string) error {
			_, err := g.rpc.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
			return err
		},
	}
	for name, call := range calls {
		g.view.pods, g.view.containers = nil, nil
		if err := call(id("9")); err != nil {
			t.Errorf("%s of the unknown: %v", name, err)
		}
		if err := call(""); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s without id: %v", name, err)
		}
		// It went between our look and the node's.
		twoPods(g)
		g.answer = func(context.Context, any) (any, error) { return nil, messages.Errorf(messages.NotFound, "gone") }
		prefix := "aa1"
		if strings.HasSuffix(name, "Container") {
			prefix = "c1"
		}
		if err := call(prefix); err != nil {
			t.Errorf("%s of what just went: %v", name, err)
		}
		g.answer = func(context.Context, any) (any, error) {
			return nil, messages.Errorf(messages.Unavailable, "no monitor")
		}
		if err := call(prefix); status.Code(err) != codes.Unavailable {
			t.Errorf("%s that failed: %v", name, err)
		}
	}
}

func TestAnAmbiguousPrefixIsRefused(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	if _, err := g.rpc.RemovePodSandbox(within(t), &runtime.RemovePodSandboxRequest{PodSandboxId: "a"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
	if g.count() != 0 {
		t.Error("the node was asked")
	}
}

func TestStatusAndWorkOnTheUnknownAreNotFound(t *testing.T) {
	g := newGateway(t)
	ctx, unknown := within(t), id("9")
	for name, call := range map[string]func() error{
		"PodSandboxStatus": func() error {
			_, err := g.rpc.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: unknown})
			return err
		},
		"ContainerStatus": func() error {
			_, err := g.rpc.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: unknown})
			return err
		},
		"StartContainer": func() error {
			_, err := g.rpc.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: unknown})
			return err
		},
		"ExecSync": func() error {
			_, err := g.rpc.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: unknown, Cmd: []string{"true"}})
			return err
		},
		"ReopenContainerLog": func() error {
			_, err := g.rpc.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: unknown})
			return err
		},
		"CreateContainer": func() error {
			_, err := g.rpc.CreateContainer(ctx, createRequest(unknown))
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheHandlerIsTheDefaultOrAConfiguredOne(t *testing.T) {
	g := newGateway(t)
	for asked, want := range map[string]string{"": "native", "native": "native", "crun": "crun"} {
		r := runPodRequest()
		r.RuntimeHandler = asked
		got, err := g.rpc.RunPodSandbox(within(t), r)
		if err != nil || got.PodSandboxId != strings.Repeat("e", 64) {
			t.Fatalf("%q: %v, %v", asked, got, err)
		}
		if handler := g.last(t).(messages.RunPod).Handler; handler != want {
			t.Errorf("%q: handler %q, want %q", asked, handler, want)
		}
	}
	before := g.count()
	r := runPodRequest()
	r.RuntimeHandler = "kata"
	if _, err := g.rpc.RunPodSandbox(within(t), r); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "kata") {
		t.Errorf("an unknown handler: %v", err)
	}
	if g.count() != before {
		t.Error("the node was asked for an unknown handler")
	}
}

func TestAPodChoosesTheSizeOfItsShmOnlyWhereItsHandlerAllowsIt(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		c.Handlers = []Handler{{Name: "native"}, {Name: "open", AllowedAnnotations: []string{"io.kubernetes.cri-o."}}}
	})
	for _, c := range []struct {
		handler, text string
		want          int64
	}{{"native", "1Gi", 0}, {"open", "1Gi", 1 << 30}, {"open", "", 0}} {
		r := runPodRequest()
		r.RuntimeHandler = c.handler
		if c.text != "" {
			r.Config.Annotations = map[string]string{messages.ShmSizeAnnotation: c.text}
		}
		if _, err := g.rpc.RunPodSandbox(within(t), r); err != nil {
			t.Fatal(err)
		}
		if got := g.last(t).(messages.RunPod).ShmSize; got != c.want {
			t.Errorf("%s, %q: %d bytes, want %d", c.handler, c.text, got, c.want)
		}
	}
	before := g.count()
	r := runPodRequest()
	r.RuntimeHandler, r.Config.Annotations = "open", map[string]string{messages.ShmSizeAnnotation: "much"}
	if _, err := g.rpc.RunPodSandbox(within(t), r); status.Code(err) != codes.InvalidArgument || g.count() != before {
		t.Errorf("a size that is none: %v, %d requests", err, g.count()-before)
	}
}

package cri

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVersionSaysWhoWeAre(t *testing.T) {
	g := newGateway(t)
	got, err := g.rpc.Version(within(t), &runtime.VersionRequest{})
	if err != nil || got.Version != "0.1.0" || got.RuntimeName != "troupe" || got.RuntimeVersion != "1.37.0" || got.RuntimeApiVersion != "v1" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestStatusTellsConditionsHandlersAndConfiguration(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Features = &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true} })
	g.view.network = messages.Condition{Reason: "NoConfig", Message: "no CNI configuration in /etc/cni/net.d"}
	got, err := g.rpc.Status(within(t), &runtime.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	conditions := map[string]*runtime.RuntimeCondition{}
	for _, c := range got.Status.Conditions {
		conditions[c.Type] = c
	}
	if !conditions["RuntimeReady"].GetStatus() || conditions["NetworkReady"].GetStatus() || conditions["NetworkReady"].GetReason() != "NoConfig" {
		t.Errorf("conditions %v", conditions)
	}
	var handlers []string
	for _, h := range got.RuntimeHandlers {
		handlers = append(handlers, fmt.Sprintf("%s=%v", h.Name, h.Features.RecursiveReadOnlyMounts))
	}
	if strings.Join(handlers, " ") != "native=true =true crun=false" {
		t.Errorf("handlers %v", handlers)
	}
	if !got.Features.SupplementalGroupsPolicy || got.Info["config"] != `{"root":"/var/lib/troupe"}` {
		t.Errorf("features %v, info %v", got.Features, got.Info)
	}
}

func TestTheKubeletLearnsTheCgroupDriverAndTellsThePodCIDR(t *testing.T) {
	g := newGateway(t)
	got, err := g.rpc.RuntimeConfig(within(t), &runtime.RuntimeConfigRequest{})
	if err != nil || got.Linux.CgroupDriver != runtime.CgroupDriver_CGROUPFS {
		t.Errorf("%v, %v", got, err)
	}
	_, err = g.rpc.UpdateRuntimeConfig(within(t), &runtime.UpdateRuntimeConfigRequest{RuntimeConfig: &runtime.RuntimeConfig{
		NetworkConfig: &runtime.NetworkConfig{PodCidr: "10.9.0.7/24,fd00:9::/64"},
	}})
	if err != nil || g.count() != 1 {
		t.Fatalf("%v; asked %d times", err, g.count())
	}
	if told := g.last(t).(messages.SetPodRanges).Ranges; fmt.Sprint(told) != "[10.9.0.0/24 fd00:9::/64]" {
		t.Errorf("ranges %v", told)
	}
	for _, cidr := range []string{"", "10.9.0.0", "10.9.0.0/33", "10.9.0.0/24,10.10.0.0/24", "10.9.0.0/24,"} {
		_, err = g.rpc.UpdateRuntimeConfig(within(t), &runtime.UpdateRuntimeConfigRequest{RuntimeConfig: &runtime.RuntimeConfig{
			NetworkConfig: &runtime.NetworkConfig{PodCidr: cidr},
		}})
		if want := codes.InvalidArgument; cidr != "" && status.Code(err) != want || cidr == "" && err != nil {
			t.Errorf("%q: %v", cidr, err)
		}
	}
	if g.count() != 1 {
		t.Errorf("a wrong or empty CIDR was passed on: %v", g.last(t))
	}
}

func TestStreamedListsHaveEachItemOnceInSmallMessages(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.StreamBatch = 3 })
	for i := range 8 {
		g.view.pods = append(g.view.pods, samplePod(fmt.Sprintf("%x", i), messages.PodReady, nil))
		g.view.containers = append(g.view.containers, sampleContainer(fmt.Sprintf("%x", i), "0", messages.ContainerRunning, nil))
		image := sampleImage()
		image.ID = id(fmt.Sprintf("%x", i))
		g.view.images = append(g.view.images, image)
	}
	pods, err := g.rpc.StreamPodSandboxes(within(t), &runtime.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := batches(t, pods.Recv, func(r *runtime.StreamPodSandboxesResponse) int { return len(r.PodSandboxes) }); got != "3 3 2" {
		t.Errorf("pods came as %s", got)
	}
	containers, err := g.rpc.StreamContainers(within(t), &runtime.StreamContainersRequest{Filter: &runtime.ContainerFilter{Id: "7"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := batches(t, containers.Recv, func(r *runtime.StreamContainersResponse) int { return len(r.Containers) }); got != "1" {
		t.Errorf("containers came as %s", got)
	}
	images, err := g.img.StreamImages(within(t), &runtime.StreamImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := batches(t, images.Recv, func(r *runtime.StreamImagesResponse) int { return len(r.Images) }); got != "3 3 2" {
		t.Errorf("images came as %s", got)
	}
	none, err := g.rpc.StreamPodSandboxes(within(t), &runtime.StreamPodSandboxesRequest{Filter: &runtime.PodSandboxFilter{Id: "fff"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := batches(t, none.Recv, func(*runtime.StreamPodSandboxesResponse) int { return 0 }); got != "" {
		t.Errorf("an empty list came as %q", got)
	}
}

func TestHeavyItemsComeInMessagesTheKubeletTakes(t *testing.T) {
	g := newGateway(t)
	for i := range 40 {
		pod := samplePod(fmt.Sprintf("%02x", i), messages.PodReady, nil)
		pod.Config.Annotations = map[string]string{"big": strings.Repeat("x", 1<<20)}
		g.view.pods = append(g.view.pods, pod)
	}
	stream, err := g.rpc.StreamPodSandboxes(within(t), &runtime.StreamPodSandboxesRequest{}, maxReceive(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	items := 0
	batches(t, stream.Recv, func(r *runtime.StreamPodSandboxesResponse) int { items += len(r.PodSandboxes); return 0 })
	if items != 40 {
		t.Errorf("%d items came", items)
	}
}

// batches reads a stream to its end and tells the sizes of its messages.
func batches[R any](t *testing.T, recv func() (R, error), size func(R) int) string {
	t.Helper()
	var sizes []string
	for {
		response, err := recv()
		if errors.Is(err, io.EOF) {
			return strings.Join(sizes, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, fmt.Sprint(size(response)))
	}
}

func TestEventsAreSentUntilTheSubscriberIsTooSlow(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	stream, err := g.rpc.GetContainerEvents(within(t), &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	g.events <- messages.Event{
		Type: runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, ID: id("c2"), Pod: g.view.pods[0],
		Container: g.view.containers[1:2], At: time.Unix(5, 0),
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if got.ContainerId != id("c2") || got.ContainerEventType != runtime.ContainerEventType_CONTAINER_STOPPED_EVENT || got.CreatedAt != 5e9 ||
		got.PodSandboxStatus.Id != id("aa1") || len(got.ContainersStatuses) != 1 || got.ContainersStatuses[0].Id != id("c2") {
		t.Errorf("got %v", got)
	}
	close(g.events)
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("a lost subscription ended with %v", err)
	}
}

func TestTheDebugServiceShowsTreeAndTimeline(t *testing.T) {
	g := newGateway(t)
	twoPods(g)
	g.view.tree = []messages.ActorInfo{{Path: "node/pod-1", Kind: "sandbox", State: "ready", Since: time.Unix(1, 0), Mailbox: 2, Owns: []string{"netns:/x"}}}
	g.view.pulls = []messages.PullProgress{{Ref: "busybox", State: "fetching", Timeline: []messages.Edge{{To: "resolving"}, {From: "resolving", To: "fetching"}}}}
	debug := NewDebug(g.server)
	conn := serve(t, debug.Serve)
	t.Cleanup(func() { debug.GracefulStop(within(t)) })
	client := debugv1.NewIntrospectionClient(conn)

	tree, err := client.Tree(within(t), &debugv1.TreeRequest{})
	if err != nil || len(tree.Actors) != 1 || tree.Actors[0].Path != "node/pod-1" || tree.Actors[0].Mailbox != 2 || tree.Actors[0].Since.AsTime().Unix() != 1 {
		t.Errorf("tree %v, %v", tree, err)
	}
	timeline, err := client.Timeline(within(t), &debugv1.TimelineRequest{PodSandboxId: "aa1"})
	if err != nil || len(timeline.Lives) != 3 || timeline.Lives[0].Name != "shop/web" || timeline.Lives[0].Edges[0].Step != "network" || timeline.Lives[2].ContainerId != id("c2") {
		t.Errorf("timeline %v, %v", timeline, err)
	}
	if all, err := client.Timeline(within(t), &debugv1.TimelineRequest{}); err != nil || len(all.Lives) != 6 || all.Lives[5].Name != "busybox" || len(all.Lives[5].Edges) != 2 {
		t.Errorf("all timelines: %v, %v", all, err)
	}
	if _, err := client.Timeline(within(t), &debugv1.TimelineRequest{PodSandboxId: "99"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown pod: %v", err)
	}

	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	services, err := stream.Recv()
	if err != nil || !strings.Contains(services.String(), "troupe.debug.v1.Introspection") {
		t.Errorf("reflection: %v, %v", services, err)
	}
}

package cri

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func debugImagesOf(t *testing.T, g *gateway) debugv1.ImagesClient {
	debug := NewDebug(g.server)
	conn := serve(t, debug.Serve)
	t.Cleanup(func() { debug.GracefulStop(within(t)) })
	return debugv1.NewImagesClient(conn)
}

func TestImagesAreListedWithWhoUsesThemAndWhatTheyShare(t *testing.T) {
	g := newGateway(t)
	base, top, odd := messages.ImageLayer{ID: "base", Size: 100}, messages.ImageLayer{ID: "top", Size: 7}, messages.ImageLayer{ID: "odd", Size: -1}
	g.view.images = []messages.Image{
		{ID: "1", RepoTags: []string{"a:1"}, Layers: []messages.ImageLayer{base, top}, Size: 107, Pinned: true},
		{ID: "2", Layers: []messages.ImageLayer{base}},
		{ID: "3", Layers: []messages.ImageLayer{base, odd}},
	}
	g.view.containers = []*messages.ContainerSnapshot{{ID: "c1", ImageID: "1", VolumeImages: []string{"2", "1"}}, {ID: "c2", ImageID: "1"}}
	r, err := debugImagesOf(t, g).List(within(t), &debugv1.ListImagesRequest{})
	if err != nil || len(r.Images) != 3 {
		t.Fatalf("got %v, %v", r, err)
	}
	for i, want := range []struct{ unique, layers, containers int64 }{{7, 2, 2}, {0, 1, 1}, {-1, 2, 0}} {
		if got := r.Images[i]; got.Unique != want.unique || got.Layers != want.layers || got.Containers != want.containers || got.Pinned != (i == 0) {
			t.Errorf("image %s: %v, want %v", got.Id, got, want)
		}
	}
}

func TestPullsAreShownPerLayerAndAddedUp(t *testing.T) {
	g := newGateway(t)
	at := time.Unix(100, 0)
	g.view.pulls = []messages.PullProgress{{Ref: "busybox", State: "fetching", Waiters: 2, Layers: []messages.LayerProgress{
		{Digest: "sha256:1", State: messages.LayerDownloading, Received: 5, Size: 9, Moved: at, Stalled: true, Tries: 2, Trouble: "cut"},
		{Digest: "sha256:2", State: messages.LayerReady, Received: 20, Size: 20},
	}}}
	g.view.ended = []messages.PullProgress{{Ref: "old", State: "failed", Error: "gone"}}
	r, err := debugImagesOf(t, g).Pulls(within(t), &debugv1.PullsRequest{})
	if err != nil || len(r.Pulls) != 1 || len(r.Ended) != 1 || r.Ended[0].Error != "gone" {
		t.Fatalf("got %v, %v", r, err)
	}
	p := r.Pulls[0]
	if p.Received != 25 || p.Size != 29 || p.Rate != 0 || p.Left != nil || p.Waiters != 2 || !p.StalledSince.AsTime().Equal(at) {
		t.Errorf("the pull is %v", p)
	}
	if l := p.Layers[0]; l.Tries != 2 || l.Trouble != "cut" || l.State != "downloading" || !l.StalledSince.AsTime().Equal(at) || p.Layers[1].StalledSince != nil {
		t.Errorf("its layers are %v", p.Layers)
	}
}

func TestAnImageIsLoadedOnceForEachOfItsNames(t *testing.T) {
	g := newGateway(t)
	g.answer = func(context.Context, any) (any, error) { return "id", nil }
	c := debugImagesOf(t, g)
	r, err := c.Load(within(t), &debugv1.LoadRequest{Source: "oci:/a/b:tag", Names: []string{"x:1", "x:2"}})
	if err != nil || len(r.ImageIds) != 1 || len(g.asked) != 2 {
		t.Errorf("got %v, %v after %v", r, err, g.asked)
	}
	if m := g.last(t).(messages.PullImage); m.Ref != "x:2" || m.Source != "oci:/a/b:tag" {
		t.Errorf("asked for %+v", m)
	}
	for _, bad := range []*debugv1.LoadRequest{
		{}, {Source: "docker://registry/x"}, {Source: "dir:relative"}, {Source: "dir:/a\nb"}, {Source: "dir:/a", Names: []string{"two words"}},
	} {
		if _, err := c.Load(within(t), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// A source makes the daemon read files of the node: whatever a pod's image is
// called, it comes from a registry.
func TestAPullOfCRINeverReadsFilesAndNamesThePodsNamespace(t *testing.T) {
	g := newGateway(t)
	for _, ref := range []string{"docker-archive:/etc/shadow", "dir:/etc", "busybox"} {
		_, _ = g.img.PullImage(within(t), &runtime.PullImageRequest{
			Image: spec(ref), SandboxConfig: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Namespace: "shop"}},
		})
		if m := g.last(t).(messages.PullImage); m.Source != "" || m.Namespace != "shop" || m.Ref != ref {
			t.Errorf("%q became %+v", ref, m)
		}
	}
}

func TestACallersDeadlineIsAnsweredBeforeItsClientGivesUp(t *testing.T) {
	g := newGateway(t)
	g.answer = func(ctx context.Context, _ any) (any, error) {
		<-ctx.Done()
		return nil, messages.Errorf(messages.Deadline, "12 of 90 MB received")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := g.img.PullImage(ctx, &runtime.PullImageRequest{Image: spec("busybox")})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "12 of 90 MB") {
		t.Errorf("the client reads %v", err)
	}
}

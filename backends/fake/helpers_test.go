package fake_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind messages.Kind) {
	t.Helper()
	if err == nil || messages.KindOf(err) != kind {
		t.Errorf("got %v of kind %v, want kind %v", err, messages.KindOf(err), kind)
	}
}

func wantNothingWrong(t *testing.T, n *fake.Node) {
	t.Helper()
	if wrong := n.Invariants(); len(wrong) > 0 {
		t.Errorf("wrong on the node:\n%s", strings.Join(wrong, "\n"))
	}
}

func wantEmpty(t *testing.T, n *fake.Node) {
	t.Helper()
	wantNothingWrong(t, n)
	if left := n.Empty(); len(left) > 0 {
		t.Errorf("left on the node:\n%s", strings.Join(left, "\n"))
	}
}

func id(number int) string { return fmt.Sprintf("%064x", number) }

// pull publishes an image of two layers and pulls it.
func pull(t *testing.T, n *fake.Node, ref string) messages.Image {
	t.Helper()
	n.AddImage(ref, fake.Layer{Name: "base", Size: 1000}, fake.Layer{Name: ref, Size: 500})
	img, err := tryPull(n, ref, nil)
	ok(t, err)
	return img
}

func tryPull(n *fake.Node, ref string, auth *messages.Auth) (messages.Image, error) {
	images, ctx := n.Backends().Images, context.Background()
	r := backends.PullRequest{Ref: ref, Auth: auth}
	m, err := images.Resolve(ctx, r)
	if err != nil {
		return messages.Image{}, err
	}
	for _, l := range m.Layers {
		if err := images.Fetch(ctx, r, m, l, nil); err != nil {
			return messages.Image{}, err
		}
	}
	return images.Commit(ctx, r, m)
}

// connect keeps a daemon's connection to the monitor for the test.
func connect(t *testing.T, n *fake.Node) *daemon {
	t.Helper()
	d := &daemon{seen: make(chan struct{}, 1000), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	go func() {
		d.ended <- n.Backends().Runtime.Connect(ctx, d.fact, func() { close(ready) })
	}()
	t.Cleanup(cancel)
	select {
	case <-ready:
	case err := <-d.ended:
		t.Fatal(err)
	}
	d.close = cancel
	return d
}

type daemon struct {
	mu    sync.Mutex
	facts []messages.ProcessState
	seen  chan struct{}
	ended chan error
	close func()
}

func (d *daemon) fact(st messages.ProcessState) {
	d.mu.Lock()
	d.facts = append(d.facts, st)
	d.mu.Unlock()
	d.seen <- struct{}{}
}

// next waits for a fact about a container that satisfies want.
func (d *daemon) next(t *testing.T, container string, want messages.ProcessStatus) messages.ProcessState {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		d.mu.Lock()
		for _, st := range d.facts {
			if st.Container == container && st.Status == want {
				d.mu.Unlock()
				return st
			}
		}
		d.mu.Unlock()
		select {
		case <-d.seen:
		case <-timeout:
			t.Fatalf("the monitor did not tell that %.12s is %s", container, want)
		}
	}
}

// start makes a pod with one container that runs a command, as the actors do.
func start(t *testing.T, n *fake.Node, pod, container string, command ...string) {
	t.Helper()
	create(t, n, pod, container, command...)
	_, err := n.Backends().Runtime.Start(context.Background(), pod, container)
	ok(t, err)
}

func create(t *testing.T, n *fake.Node, pod, container string, command ...string) {
	t.Helper()
	_, err := n.Backends().Runtime.Create(context.Background(), prepare(t, n, pod, container, command...))
	ok(t, err)
	wantNothingWrong(t, n)
}

// prepare makes all a process needs.
func prepare(t *testing.T, n *fake.Node, pod, container string, command ...string) backends.ProcessRequest {
	t.Helper()
	node, ctx := n.Backends(), context.Background()
	img := pull(t, n, "busybox")
	ok(t, node.Journal.Save(ctx, backends.Key{Pod: pod}, []byte("pod")))
	parent, err := node.Cgroups.Make(ctx, pod, "")
	ok(t, err)
	files, err := node.Files.Make(ctx, backends.FilesRequest{Pod: pod})
	ok(t, err)
	spaces, err := node.Namespaces.Pin(ctx, backends.NamespaceRequest{Pod: pod, Network: true, IPC: true, UTS: true})
	ok(t, err)
	_, err = node.Network.Attach(ctx, backends.NetworkRequest{Pod: pod, NetNS: spaces.Network})
	ok(t, err)
	ok(t, node.Journal.Save(ctx, backends.Key{Pod: pod, Container: container}, []byte("container")))
	root, err := node.Rootfs.Mount(ctx, backends.RootfsRequest{Pod: pod, Container: container, ImageID: img.ID})
	ok(t, err)
	b, err := node.Bundles.Write(ctx, backends.BundleRequest{
		Pod: pod, Container: container, PodConfig: &runtime.PodSandboxConfig{}, Config: &runtime.ContainerConfig{Command: command},
		Image: img.Config, Rootfs: root, Namespaces: spaces, Files: files, CgroupParent: parent,
	})
	ok(t, err)
	return backends.ProcessRequest{Pod: pod, Container: container, Bundle: b.Dir, LogPath: "/x"}
}

// remove takes it all back, in the actors' order.
func remove(t *testing.T, n *fake.Node, pod, container string) {
	t.Helper()
	node, ctx := n.Backends(), context.Background()
	ok(t, node.Runtime.Delete(ctx, pod, container))
	ok(t, node.Bundles.Remove(ctx, pod, container))
	ok(t, node.Rootfs.Unmount(ctx, pod, container))
	ok(t, node.Journal.Remove(ctx, backends.Key{Pod: pod, Container: container}))
	ok(t, node.Network.Detach(ctx, backends.NetworkRequest{Pod: pod}))
	ok(t, node.Namespaces.Unpin(ctx, pod))
	ok(t, node.Files.Remove(ctx, pod))
	ok(t, node.Cgroups.Remove(ctx, pod))
	ok(t, node.Journal.Remove(ctx, backends.Key{Pod: pod}))
}

package cri

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeNode is a node in a test's hands: it publishes what view holds, keeps
// what it is asked, and answers by answer.
type fakeNode struct {
	view   *fakeView
	answer func(ctx context.Context, request any) (any, error)
	events chan messages.Event

	mu    sync.Mutex
	asked []any
}

func (n *fakeNode) Ask(ctx context.Context, request any) (any, error) {
	n.mu.Lock()
	n.asked = append(n.asked, request)
	n.mu.Unlock()
	if n.answer != nil {
		return n.answer(ctx, request)
	}
	switch request.(type) {
	case messages.RunPod, messages.CreateContainer, messages.PullImage:
		return strings.Repeat("e", 64), nil
	case messages.ExecSync:
		return messages.ExecResult{}, nil
	}
	return messages.None{}, nil
}

func (n *fakeNode) View() messages.View { return n.view }

func (n *fakeNode) Subscribe(context.Context) (Subscription, error) {
	return fakeSubscription{n.events}, nil
}

type fakeSubscription struct{ events chan messages.Event }

func (s fakeSubscription) Events() <-chan messages.Event { return s.events }
func (s fakeSubscription) Err() error {
	return messages.Errorf(messages.Busy, "too slow")
}

// last is the only or latest request the node was asked.
func (n *fakeNode) last(t *testing.T) any {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.asked) == 0 {
		t.Fatal("the node was asked nothing")
	}
	return n.asked[len(n.asked)-1]
}

func (n *fakeNode) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.asked)
}

type fakeView struct {
	mu         sync.Mutex
	pods       []*messages.PodSnapshot
	containers []*messages.ContainerSnapshot
	images     []messages.Image
	fs         messages.Filesystem
	network    messages.Condition
	ended      []messages.PullProgress
	pulls      []messages.PullProgress
	tree       []messages.ActorInfo
	panics     bool
}

func (v *fakeView) Pods() []*messages.PodSnapshot {
	if v.panics {
		panic("a bug in the view")
	}
	return v.pods
}
func (v *fakeView) Containers() []*messages.ContainerSnapshot { return v.containers }

func (v *fakeView) Pod(id string) (*messages.PodSnapshot, error) {
	return find("pod sandbox", id, v.pods, func(p *messages.PodSnapshot) string { return p.ID })
}

func (v *fakeView) Container(id string) (*messages.ContainerSnapshot, error) {
	return find("container", id, v.containers, func(c *messages.ContainerSnapshot) string { return c.ID })
}

func find[T any](what, prefix string, all []T, id func(T) string) (found T, err error) {
	hits := 0
	for _, one := range all {
		if strings.HasPrefix(id(one), prefix) {
			found, hits = one, hits+1
		}
	}
	switch hits {
	case 0:
		return found, messages.Errorf(messages.NotFound, "%s %q does not exist", what, prefix)
	case 1:
		return found, nil
	}
	return found, messages.Errorf(messages.Invalid, "%s id %q is ambiguous", what, prefix)
}

func (v *fakeView) ContainersOf(pod string) (of []*messages.ContainerSnapshot) {
	for _, c := range v.containers {
		if c.Pod == pod {
			of = append(of, c)
		}
	}
	return of
}

func (v *fakeView) Images() []messages.Image {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.images
}

func (v *fakeView) addImage(i messages.Image) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.images = append(v.images, i)
}

func (v *fakeView) Image(ref string) (messages.Image, bool) {
	for _, i := range v.Images() {
		if strings.HasPrefix(i.ID, strings.TrimPrefix(ref, "sha256:")) {
			return i, true
		}
		for _, name := range append(append([]string(nil), i.RepoTags...), i.RepoDigests...) {
			if name == ref {
				return i, true
			}
		}
	}
	return messages.Image{}, false
}

func (v *fakeView) Filesystem() messages.Filesystem {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fs
}

func (v *fakeView) measure(fs messages.Filesystem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fs = fs
}

func (v *fakeView) Network() messages.Condition         { return v.network }
func (v *fakeView) Runtime() messages.Condition         { return messages.Condition{OK: true} }
func (v *fakeView) Pulls() []messages.PullProgress      { return v.pulls }
func (v *fakeView) EndedPulls() []messages.PullProgress { return v.ended }
func (v *fakeView) Everything() ([]*messages.PodSnapshot, map[string][]*messages.ContainerSnapshot) {
	of := map[string][]*messages.ContainerSnapshot{}
	for _, c := range v.Containers() {
		of[c.Pod] = append(of[c.Pod], c)
	}
	return v.Pods(), of
}

func (v *fakeView) Tree() []messages.ActorInfo { return v.tree }

// gateway is a server on a real socket, with a real client.
type gateway struct {
	*fakeNode
	meter  *fakeMeter
	server *Server
	rpc    runtime.RuntimeServiceClient
	img    runtime.ImageServiceClient
	conn   *grpc.ClientConn
	log    *testlog.Log
}

func newGateway(t *testing.T, change ...func(*Config)) *gateway {
	t.Helper()
	g := &gateway{fakeNode: &fakeNode{view: &fakeView{}, events: make(chan messages.Event, 8)}, meter: &fakeMeter{}, log: &testlog.Log{}}
	config := Config{
		Node: g.fakeNode, Meter: g.meter, Version: "1.37.0", DefaultHandler: "native",
		Handlers:     []Handler{{Name: "native", RecursiveReadOnly: true}, {Name: "crun"}},
		CgroupDriver: runtime.CgroupDriver_CGROUPFS,
		Shown:        map[string]string{"root": "/var/lib/troupe"},
		Log:          slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&config)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	g.server = server
	g.conn = serve(t, server.Serve)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.GracefulStop(ctx)
	})
	g.rpc, g.img = runtime.NewRuntimeServiceClient(g.conn), runtime.NewImageServiceClient(g.conn)
	return g
}

// serve runs a service on a unix socket and dials it.
func serve(t *testing.T, run func(net.Listener) error) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- run(l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// id makes an id of 64 characters that begins with a prefix.
func id(prefix string) string { return prefix + strings.Repeat("0", 64-len(prefix)) }

// within is a context that a passing test never sees the end of.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func samplePod(prefix string, state messages.PodState, labels map[string]string) *messages.PodSnapshot {
	return &messages.PodSnapshot{
		ID: id(prefix), State: state, Handler: "native", CreatedAt: time.Unix(1700000000, 5), Listed: true,
		IPs: []string{"10.1.0.2", "fd00::2", "10.2.0.2"},
		Config: &runtime.PodSandboxConfig{
			Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1", Attempt: 3},
			Labels:   labels, Annotations: map[string]string{"note": "as given"},
			Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_POD, Pid: runtime.NamespaceMode_CONTAINER},
			}},
		},
		Timeline: []messages.Edge{{At: time.Unix(1700000000, 9), From: "starting", To: "ready", Step: "network", Took: time.Millisecond}},
	}
}

func sampleContainer(prefix, pod string, state messages.ContainerState, labels map[string]string) *messages.ContainerSnapshot {
	return &messages.ContainerSnapshot{
		ID: id(prefix), Pod: id(pod), State: state, ImageID: id("1a"), ImageRef: id("1a"), Pid: 4711, Listed: true,
		CreatedAt: time.Unix(1700000001, 0), StartedAt: time.Unix(1700000002, 0),
		StopSignal: "SIGRTMIN+3", LogPath: "/var/log/pods/x/0.log",
		User:   &runtime.ContainerUser{Linux: &runtime.LinuxContainerUser{Uid: 7}},
		Mounts: []*runtime.Mount{{ContainerPath: "/data", HostPath: "/srv"}},
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "app", Attempt: 1},
			Image:    &runtime.ImageSpec{Image: id("1a")},
			Labels:   labels, Annotations: map[string]string{"note": "as given"},
			Mounts: []*runtime.Mount{{ContainerPath: "/data", HostPath: "/srv"}},
			Linux:  &runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{CpuShares: 512}},
		},
	}
}

func sampleImage() messages.Image {
	return messages.Image{
		ID: id("1a"), RepoTags: []string{"docker.io/library/busybox:1"},
		RepoDigests: []string{"docker.io/library/busybox@sha256:" + id("d1")}, Size: 99,
	}
}

package cri_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/cri"
	"github.com/troupe-run/troupe/messages"
	"github.com/troupe-run/troupe/supervisor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// world is a whole node in memory behind the gateway's socket, with a pod that
// has a running and a created container.
type world struct {
	t       *testing.T
	node    *fake.Node
	tree    *supervisor.Tree
	server  *cri.Server
	conn    *grpc.ClientConn
	rpc     runtime.RuntimeServiceClient
	log     *testlog.Log
	dir     string
	methods []method

	pod, running, created string
}

// method is an RPC of cri-api.
type method struct {
	protoreflect.MethodDescriptor
	full string
}

const (
	image = "registry.example/app:1"
	kept  = "/var/checkpoints/kept" // a checkpoint of the pod
)

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "gateway") // t.TempDir's names are too long for a socket
	w := &world{t: t, node: fake.New(fake.Config{}), log: &testlog.Log{}, dir: dir, methods: allMethods()}
	w.must(err)
	w.node.AddImage(image, fake.Layer{Name: "base", Size: 1 << 20})
	w.node.AddImage("registry.example/other:1", fake.Layer{Name: "base", Size: 1 << 20}, fake.Layer{Name: "top", Size: 1 << 10})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.tree, err = supervisor.Start(ctx, supervisor.Config{Node: w.node.Backends(), Log: log, Limits: supervisor.DefaultLimits(), Settings: actors.DefaultSettings()})
	w.must(err)
	w.server, err = cri.New(cri.Config{
		Node: treeNode{w.tree}, Meter: meter{}, Version: "1.37.0", DefaultHandler: "native", Checkpoints: cri.CheckpointsRestore,
		Handlers: []cri.Handler{{Name: "native", RecursiveReadOnly: true, UserNamespaces: true}, {Name: "crun"}},
		Features: &runtime.RuntimeFeatures{}, Log: log,
	})
	w.must(err)
	w.must(w.server.ServeStreams())
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	w.must(err)
	go func() { _ = w.server.Serve(l) }()
	w.conn, err = grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	w.must(err)
	w.rpc = runtime.NewRuntimeServiceClient(w.conn)
	w.furnish(ctx)
	return w
}

// furnish makes what requests are about.
func (w *world) furnish(ctx context.Context) {
	for view := w.tree.View(); !view.Runtime().OK || !view.Network().OK; time.Sleep(time.Millisecond) {
		w.must(ctx.Err())
	}
	_, err := runtime.NewImageServiceClient(w.conn).PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}})
	w.must(err)
	config := validPod()
	pod, err := w.rpc.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	w.must(err)
	w.pod = pod.PodSandboxId
	for _, c := range []struct {
		name  string
		id    *string
		start bool
	}{{"running", &w.running, true}, {"created", &w.created, false}} {
		r := &runtime.CreateContainerRequest{PodSandboxId: w.pod, Config: validContainer(), SandboxConfig: config}
		r.Config.Metadata.Name = c.name
		made, err := w.rpc.CreateContainer(ctx, r)
		w.must(err)
		*c.id = made.ContainerId
		if c.start {
			_, err = w.rpc.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: made.ContainerId})
			w.must(err)
		}
	}
	_, err = w.rpc.CheckpointPod(ctx, &runtime.CheckpointPodRequest{PodSandboxId: w.pod, ContainerIds: []string{w.running}, OutputPath: kept})
	w.must(err)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("the node could not be prepared: %v\n%s", err, w.log)
	}
}

// close removes all pods, which must be possible whatever was asked before, and
// ends the daemon; an RPC that does not end by then never does.
func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for again := true; again; {
		again = false
		for _, p := range w.tree.View().Pods() {
			again = true
			if _, err := w.rpc.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				w.t.Fatalf("afterwards the pod %s cannot be stopped: %v\n%s", p.ID, err, w.log)
			}
			if _, err := w.rpc.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				w.t.Fatalf("afterwards the pod %s cannot be removed: %v\n%s", p.ID, err, w.log)
			}
		}
	}
	if left := w.node.Empty(); len(left) > 0 {
		w.t.Errorf("without pods, the node still holds:\n%s\n%s", strings.Join(left, "\n"), w.log)
	}
	if wrong := w.node.Invariants(); len(wrong) > 0 {
		w.t.Errorf("the node is not as it should be:\n%s", strings.Join(wrong, "\n"))
	}
	w.conn.Close()
	if err := w.server.GracefulStop(ctx); err != nil {
		w.t.Errorf("a call never ended: %v", err)
	}
	if err := w.tree.Shutdown(ctx); err != nil {
		w.t.Errorf("the actors do not end: %v", err)
	}
	os.RemoveAll(w.dir)
	if log := w.log.String(); strings.Contains(log, "panic") {
		w.t.Errorf("a panic:\n%s", log)
	}
}

// state is what the node has, and nothing that changes by itself.
func (w *world) state() string {
	var lines []string
	for _, p := range w.tree.View().Pods() {
		lines = append(lines, fmt.Sprintf("pod %s %v %+v", p.ID, p.State, p.Config))
	}
	for _, c := range w.tree.View().Containers() {
		lines = append(lines, fmt.Sprintf("container %s of %s %+v", c.ID, c.Pod, c.Config))
	}
	for _, i := range w.tree.View().Images() {
		lines = append(lines, fmt.Sprintf("image %s %q %q", i.ID, i.RepoTags, i.RepoDigests))
	}
	lines = append(lines, w.node.Empty()...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func allMethods() (all []method) {
	services := runtime.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			all = append(all, method{m, "/" + string(services.Get(i).FullName()) + "/" + string(m.Name())})
		}
	}
	return all
}

// treeNode is the tree as the gateway sees it.
type treeNode struct{ *supervisor.Tree }

func (n treeNode) Subscribe(ctx context.Context) (cri.Subscription, error) {
	s, err := n.Tree.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// meter has measured everything, and nothing of it is known.
type meter struct{}

func (meter) Container(ctx context.Context, _ *messages.ContainerSnapshot, _ bool) (messages.Usage, error) {
	return messages.Usage{At: time.Now()}, ctx.Err()
}

func (meter) Pod(ctx context.Context, _ *messages.PodSnapshot, _ bool) (messages.Usage, bool, error) {
	return messages.Usage{At: time.Now()}, false, ctx.Err()
}

func (meter) Networks(context.Context, []*messages.PodSnapshot) map[string]messages.NetworkUsage {
	return nil
}

func (meter) Disk(ctx context.Context, _ *messages.ContainerSnapshot) (messages.DiskUsage, error) {
	return messages.DiskUsage{}, ctx.Err()
}
func (meter) Root() string  { return "/var/lib/troupe" }
func (meter) Unified() bool { return true }

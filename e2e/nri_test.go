package e2e

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is a real NRI plugin: it writes down what it hears and does what a
// test makes it do.
type plugin struct {
	stub stub.Stub

	mu    sync.Mutex
	heard []string // "request id"
	known []string // what it was synchronized with

	adjust func(*api.Container) (*api.ContainerAdjustment, error) // nil: nothing
	resize func(*api.LinuxResources)                              // nil: as asked
	hang   chan struct{}                                          // nil: it answers a start at once
	refuse atomic.Bool                                            // a start
	wish   *api.ContainerUpdate                                   // its answer to being synchronized
}

// connect makes the plugin known to the node's daemon.
func (n *node) connect(t *testing.T, p *plugin) *plugin {
	t.Helper()
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("e2e"), stub.WithPluginIdx("10"), stub.WithSocketPath(n.daemon.NRISocket))
	ok(t, err)
	ok(t, p.stub.Start(t.Context()))
	t.Cleanup(p.stub.Stop)
	return p
}

func (p *plugin) note(request, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, request+" "+id)
}

// of is what it heard about one pod or container, in order.
func (p *plugin) of(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var heard []string
	for _, h := range p.heard {
		if request, about, _ := strings.Cut(h, " "); about == id {
			heard = append(heard, request)
		}
	}
	return strings.Join(heard, " ")
}

func (p *plugin) knows(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.known, id)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range pods {
		p.known = append(p.known, s.GetId())
	}
	for _, c := range containers {
		p.known = append(p.known, c.GetId())
	}
	if p.wish != nil {
		return []*api.ContainerUpdate{p.wish}, nil
	}
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("run", s.GetId())
	return nil
}

func (p *plugin) StopPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("stop", s.GetId())
	return nil
}

func (p *plugin) RemovePodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("remove", s.GetId())
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create", c.GetId())
	if p.adjust == nil {
		return nil, nil, nil
	}
	a, err := p.adjust(c)
	return a, nil, err
}

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("created", c.GetId())
	return nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("start", c.GetId())
	if p.hang != nil {
		<-p.hang // beyond the deadline that the daemon tells it: it would be an answer in time now and then
	}
	if p.refuse.Load() {
		return errors.New("not today")
	}
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("started", c.GetId())
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note("update", c.GetId())
	if p.resize == nil {
		return nil, nil
	}
	p.resize(r)
	u := &api.ContainerUpdate{ContainerId: c.GetId(), Linux: &api.LinuxContainerUpdate{Resources: r}}
	return []*api.ContainerUpdate{u}, nil
}

func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("updated", c.GetId())
	return nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("stop", c.GetId())
	return nil, nil
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove", c.GetId())
	return nil
}

func TestAPluginHearsOfAWholeLife(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	heard := n.connect(t, &plugin{})
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	ended := p.start(t, "exit 3")
	eventually(t, "the exit nobody asked for is told", func() bool { return heard.of(ended.id) == "create created start started stop" })
	ok(t, n.update(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}))
	n.remove(t, p.id) // stops the container as well
	equal(t, "the container's events", heard.of(c.id), "create created start started update updated stop remove")
	equal(t, "the pod's events", heard.of(p.id), "run stop remove")
	heard.mu.Lock()
	defer heard.mu.Unlock()
	if at := func(what string) int { return slices.Index(heard.heard, what) }; at("stop "+p.id) < at("stop "+c.id) {
		t.Errorf("the pod's stop was told before its container's: %v", heard.heard)
	}
}

func TestAPluginAdjustsWhatAContainerIs(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	from := must(n.lab.Mkdir("from-plugin"))(t)
	must(n.lab.Write("of the plugin", "from-plugin", "file"))(t)
	n.connect(t, &plugin{
		adjust: func(*api.Container) (*api.ContainerAdjustment, error) {
			a := &api.ContainerAdjustment{}
			a.AddEnv("FROM_PLUGIN", "yes")
			a.AddMount(&api.Mount{Source: from, Destination: "/from-plugin", Type: "bind", Options: []string{"bind", "ro"}})
			a.AddRlimit("RLIMIT_NOFILE", 333, 333)
			a.SetLinuxMemoryLimit(96 << 20)
			a.SetLinuxPidLimits(77)
			return a, nil
		},
		resize: func(r *api.LinuxResources) { r.Cpu.Shares = api.UInt64(444) },
	})
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 300}
	})
	equal(t, "the variable", c.exec(t, "echo $FROM_PLUGIN"), "yes")
	equal(t, "the mount", c.exec(t, "cat /from-plugin/file"), "of the plugin")
	equal(t, "the limit of open files", c.exec(t, "ulimit -n"), "333")
	equal(t, "the memory limit", memoryLimit(t, c), "100663296")
	equal(t, "the memory limit that is shown", c.status(t).Resources.GetLinux().GetMemoryLimitInBytes(), 96<<20)
	equal(t, "the number of processes", cgroupValue(t, c, "pids", "pids.max", "pids.max"), "77")

	ok(t, n.update(t, c, &runtime.LinuxContainerResources{CpuQuota: 30_000, CpuPeriod: 60_000}))
	equal(t, "the memory limit after an update of something else", memoryLimit(t, c), "100663296")
	equal(t, "the shares that the plugin made of it", c.status(t).Resources.GetLinux().GetCpuShares(), 444)
}

func TestAPluginThatRefusesAContainerIsTheError(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	heard := &plugin{}
	var full atomic.Bool
	full.Store(true)
	heard.adjust = func(*api.Container) (*api.ContainerAdjustment, error) {
		if full.Load() {
			return nil, errors.New("no room on this node")
		}
		return nil, nil
	}
	n.connect(t, heard)
	p := n.pod(t)
	_, err := p.createErr(t)
	if status.Code(err) == codes.OK || !strings.Contains(err.Error(), "NRI plugin refuses CreateContainer") || !strings.Contains(err.Error(), "no room on this node") {
		t.Fatalf("the error is %v", err)
	}
	full.Store(false)
	c := p.create(t, "exec sleep 100000")
	heard.refuse.Store(true)
	_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: c.id})
	if err == nil || !strings.Contains(err.Error(), "NRI plugin refuses StartContainer") || !strings.Contains(err.Error(), "not today") {
		t.Errorf("the error of the start is %v", err)
	}
	equal(t, "the container's reason", c.exited(t).Reason, "StartError")
	heard.refuse.Store(false)
	p.start(t, "exec sleep 100000")
}

func TestAPluginChangesContainersByItself(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	wants := n.connect(t, &plugin{})
	c := n.pod(t).start(t, "exec sleep 100000")
	u := &api.ContainerUpdate{}
	u.SetContainerId(c.id)
	u.SetLinuxMemoryLimit(80 << 20)
	none := &api.ContainerUpdate{}
	none.SetContainerId("there-is-none")
	none.SetLinuxMemoryLimit(80 << 20)
	failed, err := wants.stub.UpdateContainers([]*api.ContainerUpdate{u, none})
	ok(t, err)
	if len(failed) != 1 || failed[0].GetContainerId() != "there-is-none" {
		t.Errorf("failed are %v", failed)
	}
	equal(t, "the memory limit", memoryLimit(t, c), "83886080")
	equal(t, "what it heard of its own update", wants.of(c.id), "create created start started")

	later := &api.ContainerUpdate{}
	later.SetContainerId(c.id)
	later.SetLinuxMemoryLimit(88 << 20)
	n.connect(t, &plugin{wish: later})
	eventually(t, "what a plugin wants when it comes is done", func() bool { return memoryLimit(t, c) == "92274688" })
}

func TestAPluginThatHangsHoldsAStartUpForItsTimeOnly(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) { o.NRI = `nri_plugin_request_timeout = "300ms"` })
	n.leavesNothing(t)
	hangs := &plugin{hang: make(chan struct{})}
	defer close(hangs.hang)
	n.connect(t, hangs)
	begun := time.Now()
	n.pod(t).start(t, "exec sleep 100000")
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	c := n.pod(t).start(t, "exec sleep 100000")
	equal(t, "what the disconnected plugin hears", hangs.of(c.id), "")
}

func TestAPluginThatComesLaterHearsTheEndOfWhatBeganWithoutIt(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	late := n.connect(t, &plugin{})
	eventually(t, "it was synchronized", func() bool { return late.knows(p.id) && late.knows(c.id) })
	n.remove(t, p.id)
	equal(t, "what it heard of the container", late.of(c.id), "stop remove")
	equal(t, "what it heard of the pod", late.of(p.id), "stop remove")
}

func TestAPluginThatComesAgainAfterTheDaemonsDeathKnowsEverything(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	first := n.connect(t, &plugin{})
	p := n.pod(t)
	c, exited := p.start(t, "exec sleep 100000"), p.start(t, "exit 0")
	exited.exited(t)
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(t.Context()))
	first.stub.Wait() // its connection is gone

	second := n.connect(t, &plugin{})
	eventually(t, "it was synchronized", func() bool { return second.knows(p.id) && second.knows(c.id) })
	if second.knows(exited.id) {
		t.Error("it was synchronized with a container that has exited")
	}
	n.run(t, "stop", "-t", "0", c.id)
	eventually(t, "the stop is told", func() bool { return second.of(c.id) == "stop" })
	n.remove(t, p.id)
	equal(t, "the rest of the container's life", second.of(c.id), "stop remove")
	equal(t, "the rest of the pod's life", second.of(p.id), "stop remove")
}

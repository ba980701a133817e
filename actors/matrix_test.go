package actors_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	"github.com/troupe-run/troupe/supervisor"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// gate is a hook that holds calls of one kind until it is opened: so an actor
// stays in the state the call belongs to.
type gate struct {
	mu   sync.Mutex
	held map[string]chan struct{}             // "Backend.Method" → closed when open
	keys []string                             // of the layers whose fetch has begun, in order
	came map[string]int                       // calls that have begun
	fail func(c fake.Call, effect bool) error // nil: nothing fails
}

func (g *gate) hold(call string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[call] = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for call, c := range g.held {
		close(c)
		delete(g.held, call)
	}
}

func (g *gate) seen(call string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.came[call]
}

func (*gate) Now() time.Time { return time.Now() }
func (g *gate) Before(ctx context.Context, c fake.Call) error {
	g.mu.Lock()
	held := g.held[c.Backend+"."+c.Method]
	g.came[c.Backend+"."+c.Method]++
	if c.Backend+"."+c.Method == "Images.Fetch" {
		g.keys = append(g.keys, c.Key)
	}
	g.mu.Unlock()
	if held != nil {
		<-held // a call that does not even end with its context
	}
	if g.fail != nil {
		if err := g.fail(c, false); err != nil {
			return err
		}
	}
	return ctx.Err()
}
func (*gate) Half(fake.Call) bool { return false }
func (g *gate) After(_ context.Context, c fake.Call) error {
	if g.fail == nil {
		return nil
	}
	return g.fail(c, true)
}

func (*gate) Wait(ctx context.Context, w *fake.Waiter) error {
	woken := make(chan struct{}, 1)
	w.OnWake(func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	defer w.OnWake(nil)
	var due <-chan time.Time
	if until := w.Until(); !until.IsZero() {
		due = time.After(time.Until(until))
	}
	select {
	case <-woken:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// scene is a node with one pod and one container, and the actors on it.
type scene struct {
	t         *testing.T
	gate      *gate
	node      *fake.Node
	tree      *supervisor.Tree
	log       *panics
	pod, cont string
}

// panics makes a panic or a message nobody expected a test's failure.
type panics struct {
	slog.Handler
	mu    sync.Mutex
	found []string
}

func (p *panics) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "an actor panicked" || r.Message == "unexpected message" {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		p.mu.Lock()
		p.found = append(p.found, text)
		p.mu.Unlock()
	}
	return p.Handler.Handle(ctx, r)
}

func newScene(t *testing.T) *scene { return newSceneWith(t, supervisor.DefaultLimits()) }

func newSceneWith(t *testing.T, limits supervisor.Limits) *scene {
	g := &gate{held: map[string]chan struct{}{}, came: map[string]int{}}
	s := &scene{t: t, gate: g, node: fake.New(fake.Config{Hook: g}), log: &panics{Handler: slog.NewTextHandler(io.Discard, nil)}}
	s.node.AddImage("registry.local/app:1", fake.Layer{Name: "base", Size: 1000})
	settings := actors.DefaultSettings()
	settings.KillPatience, settings.RetryMin, settings.RetryMax = 20*time.Millisecond, 5*time.Millisecond, 20*time.Millisecond
	var err error
	s.tree, err = supervisor.Start(t.Context(), supervisor.Config{
		Node: s.node.Backends(), Log: slog.New(s.log), Limits: limits, Settings: settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.open()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.tree.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		for _, p := range s.log.found {
			t.Error(p)
		}
	})
	s.must(messages.PullImage{Ref: "registry.local/app:1"})
	s.until("the monitor is connected", func() bool { return s.tree.View().Runtime().OK })
	return s
}

func (s *scene) must(req any) any {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	v, err := s.tree.Ask(ctx, req)
	if err != nil {
		s.t.Fatalf("%T: %v", req, err)
	}
	return v
}

// begin asks without waiting for the answer; it must come in the end.
func (s *scene) begin(req any) <-chan error {
	c := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := s.tree.Ask(ctx, req)
		c <- err
	}()
	return c
}

func (s *scene) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("never came to: %s", what)
		}
	}
}

func podConfig() *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}}
}

func (s *scene) run() messages.RunPod { return messages.RunPod{Config: podConfig(), Handler: "h"} }

func (s *scene) create() messages.CreateContainer {
	return messages.CreateContainer{Pod: s.pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: "registry.local/app:1"},
	}}
}

func (s *scene) podState() messages.PodState {
	for _, a := range s.tree.View().Tree() {
		if a.Kind == "sandbox" {
			return messages.PodState(a.State)
		}
	}
	return "gone"
}

func (s *scene) containerState() messages.ContainerState {
	for _, a := range s.tree.View().Tree() {
		if a.Kind == "container" {
			return messages.ContainerState(a.State)
		}
	}
	return "gone"
}

// containerStates bring a scene to each state and keep it there.
var containerStates = map[messages.ContainerState]func(*scene){
	messages.ContainerCreating: func(s *scene) { s.gate.hold("Rootfs.Mount"); s.begin(s.create()) },
	messages.ContainerCreated:  func(s *scene) { s.must(s.create()) },
	messages.ContainerStarting: func(s *scene) { s.created(); s.gate.hold("Runtime.Start"); s.begin(s.start()) },
	messages.ContainerRunning:  func(s *scene) { s.created(); s.must(s.start()) },
	messages.ContainerStopping: func(s *scene) {
		s.created()
		s.must(s.start())
		s.gate.hold("Runtime.Signal")
		s.begin(messages.StopContainer{Pod: s.pod, Container: s.cont, Grace: time.Hour})
	},
	messages.ContainerExited: func(s *scene) {
		s.created()
		s.must(s.start())
		s.node.Kill(s.cont, 3, false)
	},
	messages.ContainerRemoving: func(s *scene) {
		s.created()
		s.gate.hold("Runtime.Delete")
		s.begin(messages.RemoveContainer{Pod: s.pod, Container: s.cont})
	},
}

func (s *scene) created() { s.cont = s.must(s.create()).(string) }
func (s *scene) start() messages.StartContainer {
	return messages.StartContainer{Pod: s.pod, Container: s.cont}
}

func (s *scene) requests() map[string]any {
	return map[string]any{
		"Run": s.run(), "StopPod": messages.StopPod{Pod: s.pod}, "RemovePod": messages.RemovePod{Pod: s.pod},
		"Create": s.create(), "Start": s.start(),
		"Stop":       messages.StopContainer{Pod: s.pod, Container: s.cont},
		"StopGently": messages.StopContainer{Pod: s.pod, Container: s.cont, Grace: 20 * time.Millisecond},
		"Remove":     messages.RemoveContainer{Pod: s.pod, Container: s.cont},
		"Exec":       messages.ExecSync{Pod: s.pod, Container: s.cont, Command: []string{"true"}},
		"ExecEmpty":  messages.ExecSync{Pod: s.pod, Container: s.cont},
		"ExecStream": messages.ExecStream{Pod: s.pod, Container: s.cont, Command: []string{"true"}},
		"Attach":     messages.Attach{Pod: s.pod, Container: s.cont, Streams: messages.Streams{Gone: gone()}},
		"Forward":    messages.PortForward{Pod: s.pod, Port: 80, Gone: gone()},
		"ReopenLog":  messages.ReopenLog{Pod: s.pod, Container: s.cont},
		"Update":     messages.UpdateContainer{Pod: s.pod, Container: s.cont, Resources: &runtime.LinuxContainerResources{CpuShares: 512}},
		"Checkpoint": messages.CheckpointContainer{Pod: s.pod, Container: s.cont, Location: "/tmp/x"},
		"CheckPod":   messages.CheckpointPod{Pod: s.pod, Dir: "/tmp/y", Containers: []string{s.cont}},
		"Restore":    messages.RestorePod{Dir: "/tmp/y", Config: podConfig()},
		"UpdatePod":  messages.UpdatePod{Pod: s.pod, Resources: &runtime.LinuxContainerResources{CpuShares: 512}},
	}
}

// gone is a client that goes after a moment.
func gone() <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { close(c) })
	return c
}

var fitting = map[messages.Kind]bool{
	messages.Precondition: true, messages.NotFound: true, messages.Exists: true, messages.Canceled: true,
	messages.Unavailable: true, messages.Invalid: true,
}

// answered waits for an answer; a call that was cut off may fail as the backend says.
func (s *scene) answered(name string, c <-chan error) {
	s.t.Helper()
	err := <-c
	idempotent := name == "StopPod" || name == "RemovePod" || name == "Stop" || name == "StopGently" || name == "Remove"
	if err != nil && (idempotent || !fitting[messages.KindOf(err)]) {
		s.t.Errorf("%s: %v (kind %d)", name, err, messages.KindOf(err))
	}
}

func TestEveryRequestInEveryStateOfAContainerIsAnsweredOnceAndFittingly(t *testing.T) {
	for state, bring := range containerStates {
		for name := range (&scene{}).requests() {
			t.Run(fmt.Sprintf("%s/%s", state, name), func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				s.pod = s.must(s.run()).(string)
				bring(s)
				s.until(string(state), func() bool { return s.containerState() == state })
				if s.cont == "" {
					for _, a := range s.tree.View().Tree() {
						if a.Kind == "container" {
							s.cont = a.Path[len(a.Path)-64:]
						}
					}
				}
				c := s.begin(s.requests()[name])
				time.Sleep(2 * time.Millisecond) // it is in the mailbox before the state goes on
				s.gate.open()
				s.answered(name, c)
				s.ends()
			})
		}
	}
}

// podStates bring a scene to each state of a pod and keep it there.
var podStates = map[messages.PodState]func(*scene){
	messages.PodStarting: func(s *scene) { s.gate.hold("Network.Attach"); s.begin(s.run()) },
	messages.PodReady:    func(s *scene) { s.must(s.run()) },
	messages.PodNotReady: func(s *scene) { s.must(messages.StopPod{Pod: s.must(s.run()).(string)}) },
	messages.PodStopping: func(s *scene) {
		pod := s.must(s.run()).(string)
		s.gate.hold("Network.Detach")
		s.begin(messages.StopPod{Pod: pod})
	},
	messages.PodRemoving: func(s *scene) {
		pod := s.must(s.run()).(string)
		s.gate.hold("Cgroups.Remove")
		s.begin(messages.RemovePod{Pod: pod})
	},
}

func TestEveryRequestInEveryStateOfAPodIsAnsweredOnceAndFittingly(t *testing.T) {
	for state, bring := range podStates {
		for name := range (&scene{}).requests() {
			t.Run(fmt.Sprintf("%s/%s", state, name), func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				s.cont = strings.Repeat("c", 64) // there is none
				bring(s)
				s.until(string(state), func() bool { return s.podState() == state })
				for _, a := range s.tree.View().Tree() {
					if a.Kind == "sandbox" {
						s.pod = a.Path[len(a.Path)-64:]
					}
				}
				if s.cont == "" { // the gateway names one; this pod has none
					s.cont = strings.Repeat("0", 64)
				}
				c := s.begin(s.requests()[name])
				time.Sleep(2 * time.Millisecond)
				s.gate.open()
				s.answered(name, c)
				s.ends()
			})
		}
	}
}

// ends removes all there is: nothing may be left, of actors or on the node.
func (s *scene) ends() {
	s.t.Helper()
	for _, p := range s.tree.View().Tree() {
		if p.Kind == "sandbox" {
			s.must(messages.RemovePod{Pod: p.Path[len(p.Path)-64:]})
		}
	}
	s.until("no pod and container actors", func() bool { return s.podState() == "gone" && s.containerState() == "gone" })
	for _, left := range s.node.Empty() {
		s.t.Errorf("left behind: %s", left)
	}
}

func TestACommandThatRunsWhileItsContainerIsRemovedIsAnswered(t *testing.T) {
	s := newScene(t)
	s.pod = s.must(s.run()).(string)
	s.created()
	s.must(s.start())
	s.gate.hold("Runtime.Exec")
	c := s.begin(messages.ExecSync{Pod: s.pod, Container: s.cont, Command: []string{"sleep", "100"}})
	s.until("the exec's actor", func() bool {
		for _, a := range s.tree.View().Tree() {
			if a.Kind == "exec" {
				return true
			}
		}
		return false
	})
	s.must(messages.RemoveContainer{Pod: s.pod, Container: s.cont})
	s.answered("Exec", c)
	s.gate.open()
	s.ends()
}

// A container whose process is still being looked for, after a restart of the
// daemon, takes a removal and carries it out when it has found the process.
func TestARemovalAskedForDuringRecoveryIsCarriedOut(t *testing.T) {
	s := newScene(t)
	s.pod = s.must(s.run()).(string)
	s.created()
	s.must(s.start())
	if err := s.tree.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := &scene{t: t, gate: s.gate, node: s.node, pod: s.pod, cont: s.cont}
	var err error
	if next.tree, err = supervisor.Start(t.Context(), supervisor.Config{
		Node: s.node.Backends(), Log: slog.New(s.log), Limits: supervisor.DefaultLimits(), Settings: actors.DefaultSettings(),
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.tree.Shutdown(context.Background()) })
	s.gate.hold("Runtime.State")
	c := next.begin(messages.RemoveContainer{Pod: s.pod, Container: s.cont})
	time.Sleep(20 * time.Millisecond)
	s.gate.open()
	if err := <-c; err != nil {
		t.Error(err)
	}
	next.ends()
}

func TestAStoppedPodHasNoAddressAnyMore(t *testing.T) {
	s := newScene(t)
	s.pod = s.must(s.run()).(string)
	s.must(messages.StopPod{Pod: s.pod})
	if p, err := s.tree.View().Pod(s.pod); err != nil || len(p.IPs) > 0 {
		t.Errorf("pod %+v, %v: its address may be another's by now", p, err)
	}
	s.ends()
}

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// bomb is a log in which an actor panics: when it says that something goes to
// an armed state.
type bomb struct {
	slog.Handler
	noun, to atomic.Value
	left     atomic.Int32
}

func (b *bomb) arm(noun, to string, times int32) {
	b.noun.Store(noun)
	b.to.Store(to)
	b.left.Store(times)
}

func (b *bomb) Handle(ctx context.Context, r slog.Record) error {
	noun, _ := b.noun.Load().(string)
	if r.Message == noun && b.left.Load() > 0 {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "to" && a.Value.String() == b.to.Load().(string) {
				b.left.Add(-1)
				panic("armed")
			}
			return true
		})
	}
	return b.Handler.Handle(ctx, r)
}

type stage struct {
	t    *testing.T
	node *fake.Node
	tree *Tree
	bomb *bomb
	pod  string
	cont string
}

// onStage is a tree on a node with a pod and a running container in it.
func onStage(t *testing.T, hook fake.Hook) *stage {
	s := &stage{t: t, node: fake.New(fake.Config{Hook: hook}), bomb: &bomb{Handler: slog.NewTextHandler(io.Discard, nil)}}
	s.node.AddImage("registry.local/app:1", fake.Layer{Name: "base", Size: 1000})
	settings := actors.DefaultSettings()
	settings.RetryMin, settings.RetryMax, settings.KillPatience = 300*time.Millisecond, 300*time.Millisecond, 20*time.Millisecond
	var err error
	if s.tree, err = Start(t.Context(), Config{Node: s.node.Backends(), Log: slog.New(s.bomb), Limits: DefaultLimits(), Settings: settings, Boot: "the first"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.tree.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the monitor is connected", func() bool { return s.tree.View().Runtime().OK })
	return s
}

func (s *stage) ask(req any) (any, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	return s.tree.Ask(ctx, req)
}

func (s *stage) must(req any) string {
	s.t.Helper()
	v, err := s.ask(req)
	if err != nil {
		s.t.Fatalf("%T: %v", req, err)
	}
	id, _ := v.(string)
	return id
}

func (s *stage) running() {
	s.must(messages.PullImage{Ref: "registry.local/app:1"})
	s.pod = s.must(messages.RunPod{Handler: "h", Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "p", Namespace: "n"}}})
	s.cont = s.must(messages.CreateContainer{Pod: s.pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: "registry.local/app:1"},
	}})
	s.must(messages.StartContainer{Pod: s.pod, Container: s.cont})
}

func (s *stage) lives() bool { return slices.Contains(s.node.Living(), s.cont) }

func TestAnActorThatPanicsIsRestartedWhileItsContainerRunsOn(t *testing.T) {
	for _, noun := range []string{"container", "pod"} {
		t.Run(noun, func(t *testing.T) {
			s := onStage(t, nil)
			s.running()
			s.bomb.arm(noun, "stopping", 1)
			var err error
			stop := func() {
				if noun == "pod" {
					_, err = s.ask(messages.StopPod{Pod: s.pod})
				} else {
					_, err = s.ask(messages.StopContainer{Pod: s.pod, Container: s.cont, Grace: time.Second})
				}
			}
			if stop(); err == nil || !strings.Contains(err.Error(), "again") && !strings.Contains(err.Error(), "panicked") {
				t.Errorf("the caller of an actor that panicked got %v", err)
			}
			if !s.lives() {
				t.Error("the container did not survive its actor's panic")
			}
			restarts := 0
			for _, a := range s.tree.View().Tree() {
				restarts += a.Restarts
			}
			if stop(); err != nil || s.lives() || restarts != 1 {
				t.Errorf("after the restart: Stop %v, the container lives: %v, %d restarts", err, s.lives(), restarts)
			}
			s.must(messages.RemovePod{Pod: s.pod})
		})
	}
}

func TestAPodThatPanicsAgainAndAgainSaysSoAndStopsLater(t *testing.T) {
	s := onStage(t, nil)
	s.running()
	s.bomb.arm("pod", "stopping", 9)
	for range 5 { // restarts without a wait
		if _, err := s.ask(messages.StopPod{Pod: s.pod}); err == nil {
			t.Fatal("Stop was a success, and nothing has stopped")
		}
	}
	sixth := make(chan error, 1) // it is answered when its actor is restarted
	go func() { _, err := s.ask(messages.StopPod{Pod: s.pod}); sixth <- err }()
	eventually(t, "it is said why nobody answers", func() bool {
		p, err := s.tree.View().Pod(s.pod)
		return err == nil && strings.Contains(p.Activity.Error, "panicked 6 times in a row")
	})
	if !s.lives() {
		t.Error("the container did not survive the panics of its pod's actor")
	}
	if err := <-sixth; err == nil {
		t.Error("Stop was a success, and nothing has stopped")
	}
	for range 3 { // each waits until the pod is taken up again, and meets the next panic
		if _, err := s.ask(messages.StopPod{Pod: s.pod}); err == nil {
			t.Fatal("Stop was a success, and nothing has stopped")
		}
	}
	if p, err := s.tree.View().Pod(s.pod); err != nil || p.State != messages.PodReady {
		t.Errorf("a pod that runs on is shown as %+v, %v", p, err)
	}
	s.must(messages.StopPod{Pod: s.pod})
	if s.lives() {
		t.Error("the container lives after its pod was stopped")
	}
	s.must(messages.RemovePod{Pod: s.pod})
	if left := s.node.Empty(); len(left) > 0 {
		t.Error(left)
	}
}

func TestAContainerThatPanicsAgainAndAgainIsNeverSaidToHaveStopped(t *testing.T) {
	s := onStage(t, nil)
	s.running()
	s.bomb.arm("container", "stopping", 7)
	for range 7 {
		if _, err := s.ask(messages.RemoveContainer{Pod: s.pod, Container: s.cont}); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a removal that ended in a panic was answered with %v", err)
		}
	}
	if !s.lives() {
		t.Error("the container did not survive the panics of its actor")
	}
	s.must(messages.RemoveContainer{Pod: s.pod, Container: s.cont})
	if s.lives() || s.bomb.left.Load() > 0 {
		t.Errorf("the removal was answered; the container lives: %v, panics left: %d", s.lives(), s.bomb.left.Load())
	}
	s.must(messages.RemovePod{Pod: s.pod})
	if left := s.node.Empty(); len(left) > 0 {
		t.Error(left)
	}
}

// hang holds one kind of call until its context ends.
type hang struct{ call string }

func (hang) Now() time.Time                         { return time.Now() }
func (hang) Half(fake.Call) bool                    { return false }
func (hang) After(context.Context, fake.Call) error { return nil }
func (h hang) Before(ctx context.Context, c fake.Call) error {
	if c.Backend+"."+c.Method == h.call {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (hang) Wait(ctx context.Context, _ *fake.Waiter) error { <-ctx.Done(); return ctx.Err() }

func TestALateAnswerNamesTheStep(t *testing.T) {
	s := onStage(t, hang{"Rootfs.Mount"})
	s.must(messages.PullImage{Ref: "registry.local/app:1"})
	s.pod = s.must(messages.RunPod{Handler: "h", Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "p"}}})
	create := messages.CreateContainer{Pod: s.pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: "registry.local/app:1"},
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.tree.Ask(ctx, create)
	if messages.KindOf(err) != messages.Deadline {
		t.Errorf("got %v", err)
	}
	id := ""
	for _, a := range s.tree.View().Tree() {
		if a.Kind == "container" {
			id = a.Path[len(a.Path)-64:]
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// Stop cancels the step; one that hung on would be named.
	if text := s.tree.lateError(ctx, messages.StopContainer{Pod: s.pod, Container: id}).Error(); !strings.Contains(text, `in step "rootfs"`) {
		t.Errorf("a late answer says %q", text)
	}
	s.must(messages.RemovePod{Pod: s.pod})
}

func TestACancelledAskEndsThePullNobodyElseWaitsFor(t *testing.T) {
	s := onStage(t, hang{"Images.Fetch"})
	ctx, cancel := context.WithCancel(t.Context())
	other, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, c := range []context.Context{ctx, other} {
		wg.Go(func() { _, _ = s.tree.Ask(c, messages.PullImage{Ref: "registry.local/app:1"}) })
	}
	waiters := func(n int) func() bool {
		return func() bool {
			p := s.tree.View().Pulls()
			return n == 0 && len(p) == 0 || len(p) == 1 && p[0].Waiters == n && p[0].State == "fetching"
		}
	}
	eventually(t, "two wait for one pull", waiters(2))
	cancel()
	eventually(t, "one waits", waiters(1))
	leave()
	eventually(t, "the pull has ended", waiters(0))
	wg.Wait()
	eventually(t, "no actor of it is left", func() bool {
		return !slices.ContainsFunc(s.tree.View().Tree(), func(a messages.ActorInfo) bool { return a.Kind == "pull" || a.Kind == "layer" })
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

func TestASlowSubscriberIsToldAndNobodyWaitsForIt(t *testing.T) {
	s := onStage(t, nil)
	full := &Subscription{c: make(chan messages.Event, 1)}
	full.Offer(messages.Event{}) // nobody reads it
	s.tree.system.Root.Send(s.tree.events, actors.Subscribe{Name: "slow", To: full})
	quick, err := s.tree.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.running()
	if e := <-quick.Events(); e.ID != s.pod {
		t.Errorf("the other one got %+v", e)
	}
	<-full.Events() // what it was full of; nothing was taken in after it
	if _, open := <-full.Events(); open || messages.KindOf(full.Err()) != messages.Busy {
		t.Errorf("the slow one: open %v, %v", open, full.Err())
	}
}

func TestJobsOfOneKeyRunInOrderAndALaneHasItsLimit(t *testing.T) {
	w := newWorkers(t.Context(), Limits{Start: 2, Stop: 1, Probe: 1, Image: 1, Layer: 1, Read: 1})
	var mu sync.Mutex
	got, now, most := map[string][]int{}, 0, 0
	var wg sync.WaitGroup
	for i := range 200 {
		key := fmt.Sprint("key-", i%5)
		wg.Add(1)
		w.Go(actors.Job{Key: key, Lane: actors.LaneStart, Run: func(context.Context) {
			defer wg.Done()
			mu.Lock()
			got[key] = append(got[key], i)
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(100 * time.Microsecond)
			mu.Lock()
			now--
			mu.Unlock()
		}})
	}
	wg.Wait()
	for key, order := range got {
		if !slices.IsSorted(order) || len(order) != 40 {
			t.Errorf("%s ran in the order %v", key, order)
		}
	}
	if most != 2 {
		t.Errorf("%d jobs of a lane for 2 ran at once", most)
	}
}

func TestTheConnectionToTheMonitorIsSeenWhoeverElseTakesNumbers(t *testing.T) {
	for range 30 {
		onStage(t, nil) // waits for it
	}
}

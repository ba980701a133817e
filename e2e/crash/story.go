package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// story is a pod's life as a kubelet leads it: it looks what is there, asks for
// what is not, asks again when it was not answered, and raises the attempt of
// what has ended. A point is reached somewhere in it.
type story struct {
	n       *node
	r       *result
	name    string
	uid     string
	attempt uint32
	config  *runtime.PodSandboxConfig
	pod     string
	out     string // what containers write down
	// reached: the point was, though its mark may be gone. leading: it is the one
	// before that is armed.
	reached, leading atomic.Bool
	stalled          atomic.Bool // see result.Stalled
	ends             time.Time
	last             map[string]*held
	judged           map[string]bool
	logs             map[string]bool // whose log has been judged, by name and attempt
}

// held is a container as it is known to the story.
type held struct {
	id      string
	attempt uint32
}

// stuck is from when on it is told what is waited for.
const stuck = 8 * time.Second

// slow is from when on a step of a story is told of.
const slow = 3 * time.Second

// errPodLost: the pod does not run any more; the kubelet makes another.
var errPodLost = errors.New("the pod is not ready any more")

// tell tells a story and judges it.
func (n *node) tell(o *options, t task) *result {
	n.serial++
	s := &story{
		n: n, r: &result{Task: t, Reached: t.Mode == traced}, name: fmt.Sprintf("pod-%d", n.serial),
		ends: time.Now().Add(o.limit), last: map[string]*held{}, judged: map[string]bool{}, logs: map[string]bool{},
	}
	s.uid = "uid-" + s.name
	began := time.Now()
	if err := s.run(); err != nil {
		s.r.Err = err.Error()
	}
	s.r.Took, s.r.Stalled = time.Since(began), s.stalled.Load()
	if !s.r.good() {
		tail := 15
		if strings.Contains(s.r.Err, "no answer in time") {
			n.dumpStacks()
			tail = 1000
		}
		s.r.Log = "--- the daemon's log\n" + n.daemon.Tail(40) + "\n--- the monitor's\n" + n.monitorTail(tail)
	}
	return s.r
}

// dumpStacks has the monitor write what all its goroutines are at to its log, and
// die of it.
func (n *node) dumpStacks() {
	if pid := n.monitor(); pid > 0 && syscall.Kill(pid, syscall.SIGQUIT) == nil {
		time.Sleep(time.Second)
	}
}

func (n *node) monitorTail(lines int) string {
	text, _ := os.ReadFile(filepath.Join(n.daemon.Run, "monitor", "monitor.log"))
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (s *story) run() error {
	if err := errors.Join(s.n.disarm(), os.WriteFile(s.n.trace, nil, 0o600)); err != nil {
		return err
	}
	var err error
	if s.out, err = s.n.lab.Mkdir("out", s.name); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	accident := make(chan error, 1)
	go func() { accident <- s.accident(watching) }()
	if s.withPlugin() {
		err = s.plugIn(watching)
	}
	if err == nil && s.r.Task.Mode != traced {
		what := "kill"
		if s.r.Task.Mode == hangs {
			what = "hang"
		}
		err = s.arms(what)
	}
	if err == nil {
		err = s.live()
	}
	if err == nil && s.r.Task.Mode != traced {
		err = s.waitForPoint()
	}
	stop()
	err = errors.Join(err, <-accident)
	s.r.Reached = s.r.Reached || s.passed()
	s.r.Hits = s.hits()
	if err != nil {
		return err
	}
	return s.after()
}

// arms arms the point, or the one before it.
func (s *story) arms(what string) error {
	if s.r.Task.First == "" {
		return s.n.arms(s.r.Task.Point, what, max(s.r.Task.Nth, 1))
	}
	s.leading.Store(true)
	return s.n.arms(s.r.Task.First, "kill", 1)
}

// passed says whether the point was reached.
func (s *story) passed() bool { return s.reached.Load() || !s.leading.Load() && s.n.fired() }

// hits counts what the daemon and the monitor came by.
func (s *story) hits() map[string]int {
	if s.r.Task.Mode != traced {
		return nil
	}
	text, _ := os.ReadFile(s.n.trace)
	hits := map[string]int{}
	for _, name := range strings.Fields(string(text)) {
		hits[name]++
	}
	return hits
}

// waitForPoint gives what happens in the background a moment.
func (s *story) waitForPoint() error {
	for range 500 {
		if s.passed() {
			return s.try("after the point", func(context.Context) error { return s.n.revive() })
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil // it is told as not reached
}

// after compares the node with what it was.
func (s *story) after() error {
	if err := s.n.revive(); err != nil {
		return err
	}
	if s.n.other != nil {
		if err := s.try("look at the other pod", func(ctx context.Context) error { return s.n.other.unharmed(ctx, s.n.cri, s.r) }); err != nil {
			return err
		}
	}
	if s.n.before == nil {
		return nil
	}
	left, err := s.n.left(3 * time.Second)
	s.r.Leaked = left
	return err
}

// live is the story. A pod that is lost is given up and made anew, a few times.
func (s *story) live() error {
	for range 4 {
		err := s.once()
		if !errors.Is(err, errPodLost) {
			return err
		}
		if err := s.end(); err != nil {
			return err
		}
		s.attempt++
	}
	return errors.New("the pod was lost again and again")
}

func (s *story) once() error {
	steps := []struct {
		what string
		f    func(context.Context) error
	}{
		{"pull", s.pull},
		{"run the pod", s.runPod},
		{"run container a", func(ctx context.Context) error { return s.runContainer(ctx, "a") }},
		{"run container b", func(ctx context.Context) error { return s.runContainer(ctx, "b") }},
		{"run a terminal", s.terminal},
		{"wait for a's first line", func(context.Context) error { return s.wrote("a") }},
		{"the end of b", func(ctx context.Context) error { return s.endOf(ctx, "b") }},
		{"exec", s.exec},
		{"update", s.update},
		{"streams", s.streams},
		{"checkpoint", s.checkpoint},
		{"upgrade", s.upgrade},
		{"the daemon's restart", s.restart},
		{"reopen", s.reopen},
		{"stop container a", s.stopA},
	}
	for _, st := range steps {
		if err := s.try(st.what, st.f); err != nil {
			return err
		}
	}
	return s.end()
}

// end stops and removes all the story has, and the image.
func (s *story) end() error {
	return errors.Join(s.try("stop and remove the pod", s.removePods), s.try("remove the image", s.removeImage))
}

// try does a step until it succeeds, starting the daemon when it has died. The
// error is that of the last time.
func (s *story) try(what string, f func(context.Context) error) error {
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > slow {
			s.r.Slow = append(s.r.Slow, fmt.Sprintf("%s took %.1fs", what, took.Seconds()))
		}
	}()
	defer s.watch(what)()
	end := min(time.Until(s.ends), 25*time.Second)
	for deadline := time.Now().Add(end); ; time.Sleep(30 * time.Millisecond) {
		if err := s.n.revive(); err != nil {
			return fmt.Errorf("%s: the daemon does not come back: %w", what, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := f(ctx)
		cancel()
		if err == nil || errors.Is(err, errPodLost) || errors.Is(err, errHarmed) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// watch tells, once a step has taken as long as none should, what each thread on
// the node waits for at that moment; or takes down that it was the kernel which
// stood still. Calling what it gives ends it.
func (s *story) watch(what string) (end func()) {
	t := time.AfterFunc(stuck, func() {
		if harness.Stalled() {
			s.stalled.Store(true)
			return
		}
		fmt.Fprintf(os.Stderr, "--- %q took %s, and this is what was waited for\n%s%s\n", what, stuck, harness.Waits(), s.n.daemon.Goroutines())
	})
	return func() { t.Stop() }
}

// restart kills the daemon in the story's middle, for points that only a start
// comes by.
func (s *story) restart(ctx context.Context) error {
	if !s.r.Task.Restart || s.passed() {
		return nil
	}
	if err := s.n.daemon.Kill(); err != nil {
		return err
	}
	if s.withTornRecord() {
		if err := s.tear("b"); err != nil {
			return err
		}
	}
	return s.n.revive()
}

func (s *story) labels() map[string]string { return map[string]string{"story": s.name} }

// Package simulations runs the real actors, messages and supervision of many
// pods on one goroutine, from one seed, in virtual time. Mailbox, clock,
// workers, ids and backends are replaced, and nothing else: there is no "if
// simulating" anywhere. A failure is a number to replay.
package simulations

import (
	"container/heap"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/supervisor"
)

// World is one simulated node and its daemon. Everything that happens is drawn
// from the seed: which actor takes its next message, how long a call takes,
// what fails.
type World struct {
	Node *fake.Node

	seed   uint64
	rng    *rand.Rand
	now    time.Time
	timers timerHeap
	seq    uint64
	ready  []runnable // mailboxes and procs that can go on
	turns  int
	due    int             // the turn of the next look at the invariants
	checks int             // how many there were
	acted  map[string]bool // containers whose actor had a turn since
	pulled bool            // an actor of the images had one
	plan   Faults
	sure   bool // nothing hangs: every request must be answered in time

	skew   time.Duration // by which the node's clock was set since the beginning
	boots  int           // of the node
	killed bool          // the daemon was, in the middle of a call
	kills  int           // how often
	pods   float64
	down   []func() // to be done while no daemon runs
	// What does not work for a while, so many times at once.
	readOnly, noFiles, noMemory, silent int

	current *proc // whose code runs, or nil
	procs   map[*proc]bool
	idle    []*coroutine
	life    *life // the daemon that lives now
	lives   int
	epoch   time.Time

	transcript io.Writer // may be nil
	digest     interface {
		io.Writer
		Sum64() uint64
	}
	failures []string
	injected map[string]int
	pending  map[string]*pending // requests that wait for an answer
	doomed   map[string]bool     // containers somebody asked to stop or remove
}

// life is one life of the daemon: what its death takes away.
type life struct {
	system *actor.ActorSystem
	env    *actors.Env
	node   *actor.PID
	jobs   map[*proc]int // → its number: the order in which a crash ends them
	queues map[string]*keyQueue
	lanes  map[actors.Lane]*simLane
	skew   time.Duration // of its clock
	dead   bool
	loaded bool

	started int
}

// runnable is something that can take one turn.
type runnable interface {
	turn()
	alive() bool
}

// NewWorld makes an empty node and starts a daemon on it.
func NewWorld(seed uint64, pods int, plan Faults, transcript io.Writer) *World {
	epoch := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	w := &World{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x7472_6f75_7065)), now: epoch, epoch: epoch, plan: plan,
		pods: float64(max(1, pods)), transcript: transcript, digest: fnv.New64a(), injected: map[string]int{},
		pending: map[string]*pending{}, doomed: map[string]bool{}, acted: map[string]bool{}, procs: map[*proc]bool{},
	}
	w.sure = plan.Hang == 0 && plan.Stuck == 0 && plan.Pause == 0 && plan.MonitorHang == 0 && plan.Zombies == 0 && plan.Undying == 0
	w.Node = fake.New(fake.Config{Hook: hook{w}, NoPlugin: func(pod string) bool { return pod[0]%2 == 0 }})
	w.boot()
	return w
}

// boot starts a daemon on the node as it is.
func (w *World) boot() {
	l := &life{jobs: map[*proc]int{}, queues: map[string]*keyQueue{}, lanes: lanes(), skew: w.skew}
	w.life = l
	w.lives++
	log := slog.New(&recorder{w: w})
	index, node := actors.NewIndex(), w.Node.Backends()
	node.Images = &images{Images: node.Images, w: w, fetching: map[string]bool{}}
	l.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	settings := actors.DefaultSettings()
	strategy := &supervisor.Strategy{
		Log: log, Index: index, Clock: simClock{w, l}, Max: 5, Window: time.Minute, WaitMin: settings.RetryMin, WaitMax: settings.RetryMax,
	}
	strategy.GaveUp = func(path string) {
		if path == "node" { // the daemon ends itself, and is started anew
			w.after(l, 0, w.Crash)
		}
	}
	l.env = &actors.Env{
		Clock: simClock{w, l}, NewID: w.newID, Jobs: simJobs{w, l}, System: l.system, Log: log, Node: node, Index: index,
		Settings: settings, Boot: fmt.Sprintf("boot-%d", w.boots),
	}
	props := supervisor.Props(log, index, strategy, func(path string) actor.Mailbox { return newMailbox(w, l, path) })
	l.env.Props = func(path string, p actor.Producer) *actor.Props { return props(path, w.brittle(path, p)) }
	var err error
	l.node, err = l.system.Root.SpawnNamed(l.env.Props("node", actors.NewNode(l.env, func(err error) {
		if err != nil {
			w.after(l, time.Second, w.Crash) // as a service manager does
			return
		}
		l.loaded = true
	})), "node")
	if err != nil {
		panic(err)
	}
}

// Crash ends the daemon at once, as SIGKILL does, and starts the next one a
// moment later. The node and its journal stay.
func (w *World) Crash() {
	l := w.life
	if l.dead {
		return
	}
	w.count("daemon crash")
	l.dead = true
	for _, p := range l.underWay() {
		p.abandon()
	}
	for _, f := range w.down {
		f()
	}
	w.down = nil
	for _, name := range sortedKeys(w.pending) {
		p := w.pending[name]
		w.after(nil, w.between(time.Millisecond, 10*time.Millisecond), func() { p.answer(nil, errConnectionLost) })
	}
	w.after(nil, w.between(50*time.Millisecond, 2*time.Second), w.boot)
}

// whileDown has f done when the daemon has died the next time, which it does soon:
// what a daemon finds when it starts needs no death of its own.
func (w *World) whileDown(f func()) {
	w.down = append(w.down, f)
	w.after(nil, w.between(10*time.Second, 30*time.Second), func() {
		if len(w.down) > 0 {
			w.Crash()
		}
	})
}

// underWay are the jobs in the order they began: a crash must replay too.
func (l *life) underWay() []*proc {
	jobs := slices.Collect(maps.Keys(l.jobs))
	slices.SortFunc(jobs, func(a, b *proc) int { return l.jobs[a] - l.jobs[b] })
	return jobs
}

// Now is the virtual time, which goes on evenly.
func (w *World) Now() time.Time { return w.now }

// wall is what the node's clock shows.
func (w *World) wall() time.Time { return w.now.Add(w.skew) }

// Step takes one turn; false when nothing will ever happen again.
func (w *World) Step() bool {
	if w.killed {
		w.killed = false
		w.Crash()
	}
	for len(w.ready) > 0 {
		i := w.rng.IntN(len(w.ready))
		r := w.ready[i]
		last := len(w.ready) - 1
		w.ready[i] = w.ready[last]
		w.ready = w.ready[:last]
		if r.alive() {
			w.turns++
			r.turn()
			return true
		}
	}
	for len(w.timers) > 0 {
		t := heap.Pop(&w.timers).(*timer)
		if t.life != nil && t.life.dead {
			continue
		}
		if at := w.epoch.Add(t.at); at.After(w.now) {
			w.now = at
		}
		t.f()
		return true
	}
	return false
}

func (w *World) newID() string {
	var b [32]byte
	for i := 0; i < len(b); i += 8 {
		v := w.rng.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return fmt.Sprintf("%x", b)
}

func (w *World) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

func (w *World) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *World) count(fault string) {
	w.injected[fault]++
	w.say("fault", fault)
}

func (w *World) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.failures = append(w.failures, text)
	w.say("FAIL", text)
}

// say writes one line of the transcript; two runs of a seed must write the same.
func (w *World) say(who, what string) {
	line := fmt.Sprintf("%12s %s %s\n", w.now.Sub(w.epoch).Round(time.Microsecond), who, what)
	_, _ = io.WriteString(w.digest, line)
	if w.transcript != nil {
		_, _ = io.WriteString(w.transcript, line)
	}
}

// recorder makes the actors' own log the transcript.
type recorder struct {
	w     *World
	attrs []slog.Attr
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }

func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	text := rec.Message
	add := func(a slog.Attr) bool {
		if a.Key != "" && a.Key != "stack" {
			text += " " + a.String()
		}
		return true
	}
	for _, a := range r.attrs {
		add(a)
	}
	rec.Attrs(add)
	if rec.Message == "an actor panicked" || rec.Message == "unexpected message" {
		stack, injected := "", false
		rec.Attrs(func(a slog.Attr) bool {
			if a.Key == "stack" {
				stack = "\n" + a.Value.String()
			}
			injected = injected || (a.Key == "panic" && a.Value.String() == injectedPanic)
			return true
		})
		if injected {
			r.w.say("log", text)
			return nil
		}
		r.w.failures = append(r.w.failures, text+stack)
	}
	r.w.say("log", text)
	return nil
}

func (r *recorder) WithAttrs(a []slog.Attr) slog.Handler {
	return &recorder{w: r.w, attrs: append(r.attrs[:len(r.attrs):len(r.attrs)], a...)}
}

func (r *recorder) WithGroup(string) slog.Handler { return r }

package simulations

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends/fake"
)

// Run is one simulated run.
type Run struct {
	Seed       uint64
	Pods       int
	Faults     *Faults   // nil: drawn from the seed
	All        bool      // draw all faults there are
	Transcript io.Writer // may be nil
}

// Result is what came of it. Digest covers every line of the transcript.
type Result struct {
	Seed     uint64
	Pods     int
	Turns    int
	Virtual  time.Duration
	Lives    int // of the daemon
	Injected map[string]int
	Faults   Faults
	Digest   uint64
	Failures []string
}

// String names the run, so that a failure can be replayed from the log.
func (r Result) String() string {
	n := 0
	for _, c := range r.Injected {
		n += c
	}
	return fmt.Sprintf("seed %d: %d pods, %d turns, %s of virtual time, %d faults of %d kinds, %d lives of the daemon, transcript %016x, %d failures",
		r.Seed, r.Pods, r.Turns, r.Virtual.Round(time.Second), n, len(r.Injected), r.Lives, r.Digest, len(r.Failures))
}

// faultyTime is how long the faults go on; then everything must settle.
const faultyTime = 3 * time.Minute

// aftermath is how long what hangs may go on afterwards: a download that stands
// still the longest.
const aftermath = stall + time.Minute

// settleTime is how long what nobody owns may take to be swept: the sweeper's
// grace, a few rounds, and the longest wait between tries.
const settleTime = 20 * time.Minute

// Do runs it: first with faults, then without, until every pod has gone and
// the node must be empty.
func (r Run) Do() Result {
	plan := r.plan()
	w := NewWorld(r.Seed, r.Pods, plan, r.Transcript)
	defer w.end()
	for i := range 5 {
		w.Node.AddImage(fmt.Sprintf("registry.local/app-%d:1", i), fake.Layer{Name: "base", Size: 5 << 20}, fake.Layer{Name: fmt.Sprintf("app-%d", i), Size: 1 << 20})
	}
	w.publishSides()
	left := r.Pods + r.Pods/2
	for n := range r.Pods / 2 {
		k := &puller{w: w, n: n}
		w.spawn(nil, fmt.Sprintf("puller-%d", n), func(p *proc) { k.p = p; k.life() }, func() { left-- })
	}
	for n := range r.Pods {
		k := &pod{w: w, n: n}
		k.p = w.spawn(nil, fmt.Sprintf("pod-%d", n), func(p *proc) { k.p = p; k.life() }, func() { left-- })
	}
	w.fate()
	w.after(nil, faultyTime, func() {
		w.say("world", "faults end")
		w.plan = Faults{}
		w.Node.SetDisk(0)
		w.after(nil, aftermath, func() { w.sure = true })
	})
	limit := w.epoch.Add(12 * time.Hour)
	for left > 0 && len(w.failures) == 0 && w.now.Before(limit) && w.Step() {
		if w.turns >= w.due {
			w.check()
		}
		if w.turns > maxTurns(r.Pods) {
			w.fail("%d turns and no end: something goes round in circles", w.turns)
		}
	}
	if left > 0 && len(w.failures) == 0 {
		w.fail("%d pods and pullers have not come to their end by %s", left, w.now.Sub(w.epoch))
	}
	w.settle()
	return Result{
		Seed: r.Seed, Pods: r.Pods, Turns: w.turns, Virtual: w.now.Sub(w.epoch), Lives: w.lives,
		Injected: w.injected, Faults: plan, Digest: w.digest.Sum64(), Failures: w.failures,
	}
}

// plan is what may go wrong in it.
func (r Run) plan() Faults {
	if r.Faults != nil {
		return *r.Faults
	}
	return Draw(rand.New(rand.NewPCG(r.Seed, 1)), r.All)
}

// maxTurns is some five times what a pod's life takes.
func maxTurns(pods int) int { return 100_000 + pods*5_000 }

// spread is over which time the pods begin.
func (w *World) spread() time.Duration { return 30 * time.Second }

// settle lets the sweeper do its work; then the node must hold nothing.
func (w *World) settle() {
	until := w.now.Add(settleTime)
	for w.now.Before(until) && len(w.failures) == 0 && w.Step() {
	}
	w.checkAll()
	if len(w.failures) > 0 {
		return
	}
	for _, left := range w.Node.Empty() {
		w.fail("left behind: %s", left)
	}
	for _, name := range sortedKeys(w.pending) {
		w.fail("never answered: %s", name)
	}
	l := w.life
	for _, s := range l.env.Index.Pods() {
		w.fail("still listed: pod %s is %s", s.ID, s.State)
	}
	for _, a := range l.env.Index.Tree() {
		if a.Kind == "sandbox" || a.Kind == "container" || a.Kind == "pull" || a.Kind == "layer" || a.Kind == "exec" || a.Kind == "attach" || a.Kind == "forward" {
			w.fail("still alive: %s is %s", a.Path, a.State)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

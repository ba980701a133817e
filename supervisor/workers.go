package supervisor

import (
	"context"
	"sync"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends/gate"
)

// Limits is how many jobs of each lane run at once.
type Limits struct {
	Start, Stop, Probe, Image, Layer, Read int64
}

// DefaultLimits suit a node of a few cores. Most jobs wait for the kernel, not
// for a core; what is bounded is how much of the machine a burst may take.
//
// Layers are few: six connections fill a line, and their unpacking the cores.
// Image jobs are many: most of them wait for a registry's answer, and one that
// is silent must not hold up the others.
func DefaultLimits() Limits {
	return Limits{Start: 16, Stop: 64, Probe: 64, Image: 32, Layer: 6, Read: 64}
}

// Walks is how many volumes are walked over at once. What hangs in a dead NFS
// server holds a place here, and none in the lanes that pods start by.
const Walks = 16

// lendAfter is how long a job of a lane with steps keeps its place to itself. The
// work itself takes a fraction of it, so what is still there waits: for a
// plugin, a server, a process in the kernel. A lane is there to bound work, and
// sixteen pods that wait for a dead server must not keep all others from
// starting until their limits are over.
const lendAfter = 5 * time.Second

// lends says in which lanes that holds. A download and what a registry is
// asked take their time, and say themselves when they stand still.
func lends(l actors.Lane) bool {
	switch l {
	case actors.LaneStart, actors.LaneNet, actors.LaneStop, actors.LaneProbe, actors.LaneRead:
		return true
	}
	return false
}

// workers runs jobs on goroutines: those of one key in order, those of one
// lane at most so many at once, the highest rank first.
type workers struct {
	lanes map[actors.Lane]*gate.Gate
	ctx   context.Context // ends at shutdown

	mu     sync.Mutex
	queues map[string][]*job
	closed bool // shutdown waits: nobody will hear of a new job's outcome
	wg     sync.WaitGroup
}

type job struct {
	actors.Job
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	place *gate.Gate // that it is in
	idle  bool       // and has lent its place to others
}

// Cancel implements actors.Work.
func (j *job) Cancel() { j.cancel() }

// Idle implements actors.Work.
func (j *job) Idle(idle bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.place == nil || j.idle == idle {
		return
	}
	if j.idle = idle; idle {
		j.place.Leave()
	} else {
		j.place.Force()
	}
}

func (j *job) entered(g *gate.Gate) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.place = g
}

func (j *job) left() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.place != nil && !j.idle {
		j.place.Leave()
	}
	j.place = nil
}

func newWorkers(ctx context.Context, l Limits) *workers {
	return &workers{
		ctx: ctx, queues: map[string][]*job{},
		lanes: map[actors.Lane]*gate.Gate{
			actors.LaneStart: gate.New(l.Start), actors.LaneNet: gate.New(l.Start), actors.LaneStop: gate.New(l.Stop), actors.LaneProbe: gate.New(l.Probe),
			actors.LaneImage: gate.New(l.Image), actors.LaneLayer: gate.New(l.Layer),
			actors.LaneRead: gate.New(l.Read), actors.LaneWalk: gate.New(Walks),
		},
	}
}

// Go implements actors.Jobs.
func (w *workers) Go(j actors.Job) actors.Work {
	ctx, stop := context.WithCancel(w.ctx)
	queued := &job{Job: j, ctx: ctx, cancel: stop}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		stop()
		return queued
	}
	first := len(w.queues[j.Key]) == 0
	w.queues[j.Key] = append(w.queues[j.Key], queued)
	if first {
		w.wg.Add(1)
		go w.drain(j.Key)
	}
	return queued
}

// drain runs the jobs of a key until there is none. A job stays in the queue
// while it runs; that it goes and that the queue is found empty is one step, or
// Go would take the key for unattended and start a second drain.
func (w *workers) drain(key string) {
	defer w.wg.Done()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queues[key]) > 0 {
		j := w.queues[key][0]
		w.mu.Unlock()
		w.run(j)
		w.mu.Lock()
		w.queues[key] = w.queues[key][1:]
	}
	delete(w.queues, key)
}

// run waits for a place in the lane; the limit of a job counts from then on. A
// job that was cancelled while it waited runs all the same: it is for its own
// code to see that its context has ended, and its outcome must come.
func (w *workers) run(j *job) {
	defer j.cancel()
	if lane, bounded := w.lanes[j.Lane]; bounded && lane.Enter(j.ctx, j.Rank) == nil {
		j.entered(lane)
		defer j.left()
		if lends(j.Lane) {
			defer time.AfterFunc(lendAfter, func() { j.Idle(true) }).Stop()
		}
	}
	ctx := j.ctx
	if j.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, j.Limit)
		defer cancel()
	}
	j.Run(ctx)
}

// wait gives the jobs under way time to end.
func (w *workers) wait(ctx context.Context) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	done := make(chan struct{})
	go func() { w.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// clock is the real one.
type clock struct{}

func (clock) Now() time.Time { return time.Now() }

func (clock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

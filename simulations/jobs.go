package simulations

import (
	"context"
	"iter"
	"time"

	"github.com/troupe-run/troupe/actors"
)

// proc is code that may wait in virtual time: a worker's job, or a pod's life
// in the workload. It is a coroutine: it runs until it parks, and nothing else
// runs meanwhile.
type proc struct {
	w      *World
	life   *life // nil: the workload's
	name   string
	run    func(*proc)
	on     *coroutine // since its first turn
	listed bool
	gone   bool
	done   bool // run has returned
	ended  func()
}

// coroutine runs procs one after another: a stack that has grown serves the
// next one too.
type coroutine struct {
	proc  *proc
	next  func() (struct{}, bool)
	yield func(struct{}) bool
	stop  func()
}

// crashed unwinds the code of a job whose daemon died in the middle of it.
type crashed struct{}

func (w *World) spawn(l *life, name string, f func(*proc), ended func()) *proc {
	p := &proc{w: w, life: l, name: name, run: f, ended: ended}
	w.procs[p] = true
	p.wake()
	return p
}

func (w *World) coroutine() *coroutine {
	if last := len(w.idle) - 1; last >= 0 {
		co := w.idle[last]
		w.idle = w.idle[:last]
		return co
	}
	co := &coroutine{}
	co.next, co.stop = iter.Pull(func(yield func(struct{}) bool) {
		co.yield = yield
		for co.serve() && yield(struct{}{}) {
		}
	})
	return co
}

// serve runs the proc to its end; false when it was abandoned.
func (co *coroutine) serve() (whole bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
		}
	}()
	co.proc.run(co.proc)
	co.proc.done = true
	return true
}

func (p *proc) alive() bool { return !p.gone }

// wake puts the proc on the list; it goes on when it is drawn.
func (p *proc) wake() {
	if !p.listed && !p.gone {
		p.listed = true
		p.w.ready = append(p.w.ready, p)
	}
}

func (p *proc) turn() {
	w := p.w
	p.listed = false
	if p.on == nil {
		p.on = w.coroutine()
		p.on.proc = p
	}
	before := w.current
	w.current = p
	p.on.next()
	w.current = before
	if p.done && !p.gone {
		p.gone = true
		delete(w.procs, p)
		p.on.proc = nil
		w.idle = append(w.idle, p.on)
		if p.ended != nil {
			p.ended()
		}
	}
}

// park waits until somebody wakes it. When the daemon died, the code of its
// jobs does not go on.
func (p *proc) park() {
	if !p.on.yield(struct{}{}) {
		panic(crashed{})
	}
}

// sleep waits d, or less when woken.
func (p *proc) sleep(d time.Duration) {
	t := p.w.after(p.life, d, p.wake)
	p.park()
	p.w.cancel(t)
}

// abandon ends the proc wherever it is.
func (p *proc) abandon() {
	if p.gone {
		return
	}
	p.gone = true
	delete(p.w.procs, p)
	if p.on != nil {
		p.on.stop()
	}
}

// end lets go of all coroutines: else they would hold the world in memory.
func (w *World) end() {
	for p := range w.procs {
		p.abandon()
	}
	for _, co := range w.idle {
		co.stop()
	}
	w.idle = nil
}

// simContext is a context that the world ends.
type simContext struct {
	context.Context
	done chan struct{}
	err  error
}

func newSimContext() *simContext {
	return &simContext{Context: context.Background(), done: make(chan struct{})}
}

func (c *simContext) Done() <-chan struct{} { return c.done }
func (c *simContext) Err() error            { return c.err }

func (c *simContext) end(err error) {
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

// simJobs runs jobs as procs: those of one key in order, each beginning at a
// drawn moment, so that anything can happen before, between and after.
type simJobs struct {
	w *World
	l *life
}

type simJob struct {
	actors.Job
	ctx   *simContext
	proc  *proc
	place *simLane // that it is in
	idle  bool     // and has lent its place to others
}

// Cancel implements actors.Work.
func (j *simJob) Cancel() {
	j.ctx.end(context.Canceled)
	if j.proc != nil {
		j.proc.wake()
	}
}

// Idle implements actors.Work.
func (j *simJob) Idle(idle bool) {
	if j.place == nil || j.idle == idle {
		return
	}
	if j.idle = idle; idle {
		j.place.idle++
		j.place.leave()
	} else {
		j.place.idle--
		j.place.free--
	}
}

func (j *simJob) left() {
	if j.idle {
		j.place.idle--
	} else {
		j.place.leave()
	}
	j.place = nil
}

// Go implements actors.Jobs.
func (s simJobs) Go(j actors.Job) actors.Work {
	job := &simJob{Job: j, ctx: newSimContext()}
	queue := s.l.queue(j.Key)
	queue.jobs = append(queue.jobs, job)
	if len(queue.jobs) == 1 {
		s.begin(queue)
	}
	return job
}

// keyQueue holds the jobs of one key; the first is under way.
type keyQueue struct {
	key  string
	jobs []*simJob
}

func (l *life) queue(key string) *keyQueue {
	q, ok := l.queues[key]
	if !ok {
		q = &keyQueue{key: key}
		l.queues[key] = q
	}
	return q
}

func (s simJobs) begin(q *keyQueue) {
	job := q.jobs[0]
	var limit *timer
	job.proc = s.w.spawn(s.l, job.Name, func(p *proc) {
		p.sleep(s.w.between(0, 200*time.Microsecond))
		if lane := s.l.lanes[job.Lane]; lane != nil && lane.enter(p, job) {
			job.place = lane
			defer job.left()
		}
		if job.Limit > 0 {
			limit = s.w.after(s.l, job.Limit, func() {
				job.ctx.end(context.DeadlineExceeded)
				p.wake()
			})
		}
		job.Run(job.ctx)
	}, func() {
		if limit != nil {
			s.w.cancel(limit)
		}
		delete(s.l.jobs, job.proc)
		q.jobs = q.jobs[1:]
		if len(q.jobs) > 0 {
			s.begin(q)
		} else {
			delete(s.l.queues, q.key)
		}
	})
	s.l.started++
	s.l.jobs[job.proc] = s.l.started
}

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
	next   func() (struct{}, bool)
	yield  func(struct{}) bool
	stop   func()
	listed bool
	gone   bool
	ended  func()
}

// crashed unwinds the code of a job whose daemon died in the middle of it.
type crashed struct{}

func (w *World) spawn(l *life, name string, f func(*proc), ended func()) *proc {
	p := &proc{w: w, life: l, name: name, ended: ended}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		p.yield = yield
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crashed); !ok {
					panic(r)
				}
			}
		}()
		f(p)
	})
	p.wake()
	return p
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
	p.listed = false
	before := p.w.current
	p.w.current = p
	_, more := p.next()
	p.w.current = before
	if !more && !p.gone {
		p.gone = true
		if p.ended != nil {
			p.ended()
		}
	}
}

// park waits until somebody wakes it. When the daemon died, the code of its
// jobs does not go on.
func (p *proc) park() {
	if !p.yield(struct{}{}) {
		panic(crashed{})
	}
}

// sleep waits d, or less when woken.
func (p *proc) sleep(d time.Duration) {
	t := p.w.after(p.life, d, p.wake)
	p.park()
	t.off = true
}

// abandon ends the proc wherever it is.
func (p *proc) abandon() {
	if p.gone {
		return
	}
	p.gone = true
	p.stop()
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
			limit.off = true
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

package actors

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// crew is the part of an actor that has work done. Outcomes come back to the
// actor as done messages, and timers as tick messages; both carry a number, so
// that what an earlier instance or an abandoned attempt left behind is ignored.
type crew struct {
	env  *Env
	self *actor.PID
	key  string
	busy map[uint64]busyJob
	// timers are those that have not fired: of this instance, and of no other.
	timers map[uint64]timer
	// ending: this instance is being stopped or restarted. Its children's ends
	// are then no news.
	ending bool
}

type timer struct {
	then func()
	stop func()
}

type busyJob struct {
	name  string
	since time.Time
	work  Work
	then  func(done)
}

// done is the outcome of a job.
type done struct {
	attempt uint64
	name    string
	took    time.Duration
	value   any
	err     error
}

// tick is a timer that fired.
type tick struct{ attempt uint64 }

// Ending says whether this instance is being stopped or restarted, its children
// with it. A child that failed meanwhile must then not be restarted: the
// library would forget that it was told to stop, and its parent would wait for
// it without end.
func (c *crew) Ending() bool { return c.ending }

func (c *crew) start(env *Env, ctx actor.Context, key string) {
	c.env, c.self, c.key, c.busy, c.timers = env, ctx.Self(), key, map[uint64]busyJob{}, map[uint64]timer{}
}

// do runs f in a worker and then, as a message, in the actor. Jobs of one key
// run in order; the usual key is the actor's own.
func (c *crew) do(j Job, f func(context.Context) (any, error), then func(done)) {
	if j.Key == "" {
		j.Key = c.key
	}
	attempt, env, self, begun := c.env.next(), c.env, c.self, c.env.Clock.Now()
	j.Run = func(ctx context.Context) {
		value, err := guard(ctx, f)
		env.send(self, done{attempt: attempt, name: j.Name, took: env.Clock.Now().Sub(begun), value: value, err: err})
	}
	// The entry is made first: a job may end before Go returns.
	c.busy[attempt] = busyJob{name: j.Name, since: begun, then: then}
	work := env.Jobs.Go(j)
	b := c.busy[attempt]
	b.work = work
	c.busy[attempt] = b
}

// timeLeft is what is left of a caller's time; one without a deadline has the
// other. It is never 0, which a job takes for no limit.
func (e *Env) timeLeft(until time.Time, other time.Duration) time.Duration {
	if until.IsZero() {
		return other
	}
	return max(until.Sub(e.Clock.Now()), time.Nanosecond)
}

// untilOf is a step's limit, or what is left of the caller's time if that is less.
func untilOf(env *Env, until time.Time) time.Duration {
	limit := env.Settings.StepLimit
	return min(limit, env.timeLeft(until, limit))
}

// finished gives a job's outcome to whom it was meant for.
func (c *crew) finished(m done) {
	b, mine := c.busy[m.attempt]
	if !mine {
		return
	}
	delete(c.busy, m.attempt)
	b.then(m)
}

// fired does what a timer was set for, unless it was called off meanwhile.
func (c *crew) fired(m tick) {
	t, mine := c.timers[m.attempt]
	if !mine {
		return
	}
	delete(c.timers, m.attempt)
	t.then()
}

// cancel ends the contexts of all jobs under way; their outcomes still come.
func (c *crew) cancel() {
	for _, attempt := range sortedKeys(c.busy) { // in order: the simulator replays
		c.busy[attempt].work.Cancel()
	}
}

// idle says of all jobs under way that they wait for something that no lane
// bounds, or do so no more.
func (c *crew) idle(idle bool) {
	for _, attempt := range sortedKeys(c.busy) {
		c.busy[attempt].work.Idle(idle)
	}
}

// after calls f in the actor when d has passed; the returned function calls it
// off. f must look at the actor's state anew.
func (c *crew) after(d time.Duration, f func()) (stop func()) {
	env, self, n := c.env, c.self, c.env.next()
	c.timers[n] = timer{then: f} // first: it may fire before AfterFunc returns
	off := env.Clock.AfterFunc(d, func() { env.send(self, tick{n}) })
	c.timers[n] = timer{then: f, stop: off}
	return func() {
		delete(c.timers, n)
		off()
	}
}

// handled deals with the messages every actor with a crew gets. An instance that
// is ending has answered all it owes, and hears no more of its work.
func (c *crew) handled(m any) bool {
	switch m := m.(type) {
	case done:
		if !c.ending {
			c.finished(m)
		}
	case tick:
		if !c.ending {
			c.fired(m)
		}
	case *actor.Stopping, *actor.Restarting:
		// Only in-memory things are let go: the end of an actor never touches
		// what it owns on the node.
		c.ending = true
		c.cancel()
		for _, n := range sortedKeys(c.timers) {
			c.timers[n].stop()
		}
	default:
		return false
	}
	return true
}

// guard turns a panic of a worker into an error: on a goroutine of its own it
// would end the daemon.
func guard(ctx context.Context, f func(context.Context) (any, error)) (value any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a worker: %v\n%s", r, debug.Stack())
		}
	}()
	return f(ctx)
}

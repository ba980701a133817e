// Package actors holds the actors of Troupe: what owns what, what happens in
// which state, and in which order. Actors decide and never block: blocking
// work runs in a worker (Env.Jobs) against a backend interface and comes back
// as a message. The same files run in the daemon and in the simulator, which
// replaces mailbox, clock, workers, ids and backends, and nothing else.
package actors

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Lane is a queue of the worker pool with a limit of its own, so that one kind
// of work cannot starve another: a kill never waits behind a pull.
type Lane string

// The lanes, in the order of their importance.
const (
	LaneStop  Lane = "stop"  // signals, teardown
	LaneProbe Lane = "probe" // exec
	LaneStart Lane = "start" // the steps of pods and containers
	LaneNet   Lane = "net"   // pods' networks, by plugins of others; as wide as start
	LaneLook  Lane = "look"  // steps that look at what others mounted, which may never answer; no limit
	LaneImage Lane = "image" // manifests, commits and removals
	LaneLayer Lane = "layer" // downloads with their unpacking, for minutes
	LaneRead  Lane = "read"  // short looks at the node
	LaneWalk  Lane = "walk"  // walks over whole volumes, for hours if need be
	LaneWatch Lane = "watch" // jobs that live as long as their actor; no limit
)

// Job is blocking work.
type Job struct {
	Key   string // jobs of one key run one after another, in order
	Lane  Lane
	Name  string        // of the step, for people
	Rank  int64         // in a lane that is full the highest goes first, then the oldest
	Limit time.Duration // the context's deadline; 0: none
	Run   func(context.Context)
}

// Jobs runs work off the mailbox.
type Jobs interface {
	Go(Job) Work
}

// Work is a job that was handed over.
type Work interface {
	// Cancel ends the job's context; it still runs to its end, so the next job
	// of its key never overlaps it.
	Cancel()
	// Idle says that the job waits for something that its lane does not bound,
	// or does so no more: meanwhile another may use its place in the lane. With
	// those that go on after it there may be more in the lane than its limit.
	Idle(idle bool)
}

// Clock is the only time the actors know.
type Clock interface {
	Now() time.Time
	AfterFunc(d time.Duration, f func()) (stop func())
}

// Settings are the figures an operator may change.
type Settings struct {
	StepLimit    time.Duration // for one step of a start; a caller's own deadline may be shorter
	UndoLimit    time.Duration // for one undo
	KillPatience time.Duration // between SIGKILLs to a container that does not die
	RetryMin     time.Duration // first wait before a failed undo is tried again; doubles
	RetryMax     time.Duration
	SweepEvery   time.Duration
	SweepGrace   time.Duration // how long something must have no owner before it is removed
	RefreshEvery time.Duration // of the image list and the network's condition
}

// DefaultSettings are those of a node without a configuration file.
func DefaultSettings() Settings {
	return Settings{
		StepLimit: 2 * time.Minute, UndoLimit: time.Minute, KillPatience: 2 * time.Second,
		RetryMin: 200 * time.Millisecond, RetryMax: 30 * time.Second,
		SweepEvery: time.Minute, SweepGrace: 5 * time.Minute, RefreshEvery: 10 * time.Second,
	}
}

// Env is an actor's only way to the outside.
type Env struct {
	Clock    Clock
	NewID    func() string // 64 hex characters
	Boot     string        // names this boot of the node; "": not known
	Jobs     Jobs
	System   *actor.ActorSystem
	Props    func(path string, producer actor.Producer) *actor.Props
	Log      *slog.Logger
	Node     *backends.Node
	Index    *Index
	Settings Settings

	// Where the actors everybody may write to are; set by the node actor
	// before it spawns anybody else.
	nodePID *actor.PID
	events  *actor.PID
	images  *actor.PID
	checker *actor.PID
	network *actor.PID
	sweeper *actor.PID // nil until all pods are known

	attempts atomic.Uint64
}

// next numbers jobs and timers. It belongs to the process, not to an actor's
// instance: a restarted actor must not take an old answer for its own.
func (e *Env) next() uint64 { return e.attempts.Add(1) }

// send posts a message from outside an actor (a worker or a timer).
func (e *Env) send(to *actor.PID, m any) { e.System.Root.Send(to, m) }

// reply answers a request; nobody waits when to is nil.
func (e *Env) reply(to *actor.PID, value any, err error) {
	if to == nil {
		return
	}
	if err != nil {
		value = nil
	}
	e.send(to, messages.Reply{Value: value, Err: err})
}

package supervisor

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
)

// Strategy restarts a panicking actor, alone: at once the first Max times, then
// after a wait that doubles, without end. While it waits its mailbox keeps what
// comes: nobody is told that a pod has stopped which no actor looks after. An
// actor that its parent does not revive (a pull, a session) ends instead, and so
// does the root, with the daemon. Nothing escalates: one pod's fault is one
// pod's. The library's strategies read the real clock, which the simulator
// cannot.
type Strategy struct {
	Log    *slog.Logger
	Index  *actors.Index
	Clock  actors.Clock
	Max    int           // panics in a row after which it waits
	Window time.Duration // without a panic, after which they are forgotten
	// WaitMin and WaitMax are the first wait and the longest.
	WaitMin, WaitMax time.Duration
	GaveUp           func(path string) // told of each actor that ends for it; may be nil

	mu     sync.Mutex
	panics map[string]panics // by path
}

// panics are those of one actor that came in a row.
type panics struct {
	n    int
	last time.Time
	wait time.Duration // after the last
}

// revive tells a parent that a child has waited long enough.
type revive struct{ child *actor.PID }

var _ actor.SupervisorStrategy = (*Strategy)(nil)

// HandleFailure implements actor.SupervisorStrategy.
func (s *Strategy) HandleFailure(system *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	if ending(sup) {
		sup.StopChildren(child)
		return
	}
	p := s.count(child.Id)
	switch {
	case p.wait == 0:
		s.Index.Restarted(child.Id)
		sup.RestartChildren(child)
	case !revived(sup, child):
		s.Log.Error("an actor panics again and again and is given up", "actor", child.Id, "panic", reason)
		sup.StopChildren(child)
		if s.GaveUp != nil {
			s.GaveUp(child.Id)
		}
	default:
		s.Log.Error("an actor panics again and again; it is restarted after a wait, in which it answers nobody", "actor", child.Id, "panic", reason, "panics", p.n, "wait", p.wait)
		s.Index.Suspended(child.Id, fmt.Sprintf("its actor has panicked %d times in a row and is restarted from its journal in %s: %v", p.n, p.wait, reason), s.Clock.Now())
		parent := sup.(interface{ Self() *actor.PID }).Self()
		s.Clock.AfterFunc(p.wait, func() { system.Root.Send(parent, revive{child}) })
	}
}

// revival restarts a child that has waited, in its parent's turn: only there it
// is known that neither has ended meanwhile.
func (s *Strategy) revival(next actor.ReceiverFunc) actor.ReceiverFunc {
	return func(c actor.ReceiverContext, env *actor.MessageEnvelope) {
		m, ok := env.Message.(revive)
		if !ok {
			next(c, env)
			return
		}
		sup := c.(actor.Supervisor)
		// By the pointer: another child may have the path by now.
		if !ending(sup) && slices.Contains(sup.Children(), m.child) {
			s.Index.Restarted(m.child.Id)
			sup.RestartChildren(m.child)
		}
	}
}

func ending(sup actor.Supervisor) bool {
	parent, ok := actorOf(sup).(interface{ Ending() bool })
	return ok && parent.Ending()
}

// revived: what the guardian has below it, the root, is not.
func revived(sup actor.Supervisor, child *actor.PID) bool {
	parent, ok := actorOf(sup).(interface{ Revives(child string) bool })
	return ok && parent.Revives(child.Id)
}

func actorOf(sup actor.Supervisor) actor.Actor {
	if ctx, ok := sup.(interface{ Actor() actor.Actor }); ok {
		return ctx.Actor()
	}
	return nil // the guardian
}

// count notes a panic and says how long to wait. Those of actors that have long
// been well are forgotten.
func (s *Strategy) count(path string) panics {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	maps.DeleteFunc(s.panics, func(_ string, p panics) bool { return now.Sub(p.last) > p.wait+s.Window })
	p := s.panics[path]
	p.n, p.last = p.n+1, now
	if p.n > s.Max {
		p.wait = min(max(2*p.wait, s.WaitMin), s.WaitMax)
	}
	if s.panics == nil {
		s.panics = map[string]panics{}
	}
	s.panics[path] = p
	return p
}

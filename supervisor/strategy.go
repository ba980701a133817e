package supervisor

import (
	"log/slog"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
)

// Strategy restarts a panicking actor, alone, a few times; then it stops it,
// and its parent decides (a pod is shown NotReady with the reason). Nothing
// escalates: one pod's fault is one pod's. The library's strategies read the
// real clock, which the simulator cannot.
type Strategy struct {
	Log    *slog.Logger
	Index  *actors.Index
	Now    func() time.Time
	Max    int // restarts within Window
	Window time.Duration
	GaveUp func(path string) // told of each actor that is stopped for it; may be nil

	mu    sync.Mutex
	fails map[string][]time.Time
}

var _ actor.SupervisorStrategy = (*Strategy)(nil)

// HandleFailure implements actor.SupervisorStrategy.
func (s *Strategy) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	if ending(sup) {
		sup.StopChildren(child)
		return
	}
	if s.tooMany(child.Id) {
		s.Log.Error("an actor panics again and again and is given up", "actor", child.Id, "panic", reason)
		sup.StopChildren(child)
		if s.GaveUp != nil {
			s.GaveUp(child.Id)
		}
		return
	}
	s.Index.Restarted(child.Id)
	sup.RestartChildren(child)
}

func ending(sup actor.Supervisor) bool {
	ctx, ok := sup.(interface{ Actor() actor.Actor })
	if !ok {
		return false // the guardian
	}
	parent, ok := ctx.Actor().(interface{ Ending() bool })
	return ok && parent.Ending()
}

func (s *Strategy) tooMany(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails == nil {
		s.fails = map[string][]time.Time{}
	}
	now := s.Now()
	recent := []time.Time{now}
	for _, t := range s.fails[id] {
		if now.Sub(t) < s.Window {
			recent = append(recent, t)
		}
	}
	if len(recent) > s.Max {
		delete(s.fails, id)
		return true
	}
	s.fails[id] = recent
	return false
}

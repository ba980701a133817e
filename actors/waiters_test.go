package actors

import (
	"log/slog"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// One that is told to restart and then to stop, because its parent panicked in
// the same moment, settles twice (make sim, seed 1796054939136328512).
func TestWhoeverWasAnsweredIsForgotten(t *testing.T) {
	env := &Env{System: actor.NewActorSystem(), Log: slog.New(slog.DiscardHandler)}
	answers := make(chan any, 100)
	caller := env.System.Root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		if _, reply := c.Message().(messages.Reply); reply {
			answers <- c.Message()
		}
	}))
	waits := waiters{caller}
	one := postponed{caller: waits}
	for name, d := range map[string]debtor{
		"sandbox": &sandbox{
			running: waits, stopping: waits, removing: waits, postponed: []postponed{one},
			updates: []podUpdate{{caller: waits}}, captures: []*capture{{caller: waits}},
		},
		"container": &container{
			creating: waits, starting: waits, stopping: waits, removing: waits, reopening: waits,
			postponed: []postponed{one}, updates: []update{{caller: waits}},
		},
		"node":  &node{waiting: []postponed{one}, restoring: []*waiters{{caller}}},
		"pull":  &pull{callers: waits},
		"exec":  &session{caller: waits},
		"check": &checker{callers: waits},
	} {
		owed := len(d.debts())
		for range 2 {
			settle(env, caller, d)
		}
		for range owed {
			<-answers
		}
		for i, w := range d.debts() {
			if len(*w) > 0 {
				t.Errorf("%s, debt %d: its caller is still owed an answer", name, i)
			}
		}
	}
	if err := env.System.Root.PoisonFuture(caller).Wait(); err != nil || len(answers) > 0 {
		t.Errorf("%d answers too many (%v)", len(answers), err)
	}
}

package simulations

import (
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
)

const injectedPanic = "injected"

// fewPods is how many pods an actor that serves them all may serve before its
// chance of a panic falls: else the whole tree, or the daemon, would be restarted
// every few seconds in a run of many pods.
const fewPods = 20.

// brittle makes an actor that panics now and then: before it has dealt with a
// message, which is then lost, or after, when its effects are there. It does
// not at the messages of its own life: those are the library's.
type brittle struct {
	actor.Actor
	w    *World
	path string
}

func (w *World) brittle(path string, producer actor.Producer) actor.Producer {
	return func() actor.Actor { return brittle{producer(), w, path} }
}

// Receive implements actor.Actor.
func (b brittle) Receive(ctx actor.Context) {
	switch ctx.Message().(type) {
	case actor.AutoReceiveMessage, actor.SystemMessage, *actor.Started:
		b.Actor.Receive(ctx)
		return
	}
	chance := b.w.plan.Panic / 2
	if !strings.Contains(b.path, "/sandbox-") { // its messages are all pods' together
		chance *= min(1, fewPods/b.w.pods)
	}
	if b.w.chance(chance) {
		b.w.count("panic before")
		panic(injectedPanic)
	}
	b.Actor.Receive(ctx)
	// One that has an answer coming would be answered twice, by what it did and
	// by its supervisor; a real caller does not see the second.
	if ctx.Sender() == nil && len(actors.Carried(ctx.Message())) == 0 && b.w.chance(chance) {
		b.w.count("panic after")
		panic(injectedPanic)
	}
}

// Owes is asked by the supervisor in place of the actor inside.
func (b brittle) Owes(sender *actor.PID) bool { return actors.Owes(b.Actor, sender) }

// Revives is asked by the supervisor too.
func (b brittle) Revives(child string) bool {
	r, ok := b.Actor.(interface{ Revives(string) bool })
	return ok && r.Revives(child)
}

// Ending is asked by the supervisor too.
func (b brittle) Ending() bool { return b.Actor.(interface{ Ending() bool }).Ending() }

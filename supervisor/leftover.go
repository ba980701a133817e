package supervisor

import (
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/messages"
)

// answering answers what is left in the mailbox of an actor that has ended. The
// library drops it: a request that was on its way down when a parent was
// restarted would wait for ever. Found by simulation.
type answering struct {
	actor.Mailbox
	system *actor.ActorSystem // set with the first message that is left
	ended  atomic.Bool
}

// RegisterHandlers implements actor.Mailbox.
func (a *answering) RegisterHandlers(invoker actor.MessageInvoker, d actor.Dispatcher) {
	a.Mailbox.RegisterHandlers(leftover{invoker, a}, d)
}

// end is called when the actor has had its last message. One that ends after a
// panic is suspended, and would keep what it has.
func (a *answering) end(system *actor.ActorSystem) {
	a.system = system
	a.ended.Store(true)
	a.PostSystemMessage(&actor.ResumeMailbox{})
}

func (a *answering) middleware(next actor.ReceiverFunc) actor.ReceiverFunc {
	return func(c actor.ReceiverContext, env *actor.MessageEnvelope) {
		if _, last := env.Message.(*actor.Stopped); last {
			defer a.end(c.ActorSystem())
		}
		next(c, env)
	}
}

type leftover struct {
	actor.MessageInvoker
	a *answering
}

// InvokeUserMessage implements actor.MessageInvoker.
func (l leftover) InvokeUserMessage(m any) {
	if !l.a.ended.Load() {
		l.MessageInvoker.InvokeUserMessage(m)
		return
	}
	_, message, sender := actor.UnwrapEnvelope(m)
	owed := actors.Carried(message)
	if sender != nil {
		owed = append(owed, sender)
	}
	for _, caller := range owed {
		l.a.system.Root.Send(caller, messages.Reply{Err: messages.Errorf(messages.Unavailable, "the actor that was asked has ended: ask again")})
	}
}

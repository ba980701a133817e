package supervisor

import (
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/messages"
)

// panicMiddleware logs the stack of a panic, which the library loses, and
// answers the caller, which the library leaves waiting; then the panic goes on
// to the supervisor.
func panicMiddleware(log *slog.Logger) actor.ReceiverMiddleware {
	return func(next actor.ReceiverFunc) actor.ReceiverFunc {
		return func(c actor.ReceiverContext, env *actor.MessageEnvelope) {
			defer func() {
				r := recover()
				if r == nil {
					return
				}
				log.Error("an actor panicked", "actor", c.Self().Id, "message", fmt.Sprintf("%T", env.Message), "panic", r, "stack", string(debug.Stack()))
				owed := actors.Carried(env.Message)
				if env.Sender != nil && !actors.Owes(c.Actor(), env.Sender) {
					owed = append(owed, env.Sender)
				}
				for _, caller := range owed {
					c.ActorSystem().Root.Send(caller, messages.Reply{Err: fmt.Errorf("%s panicked and is restarted from its journal: %v", c.Self().Id, r)})
				}
				panic(r)
			}()
			next(c, env)
		}
	}
}

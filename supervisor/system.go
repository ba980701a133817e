// Package supervisor builds the actor system: how actors are spawned, who is
// restarted and how often, where their blocking work runs, how the edge asks
// them, and in which order all of it stops.
package supervisor

import (
	"log/slog"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
)

// newSystem is an actor system that logs where we log. Its own metrics stay
// off: they leak a callback per actor (protoactor-go#745).
func newSystem(log *slog.Logger) *actor.ActorSystem {
	// The library reports each dead letter at Info; a reply to a caller that
	// has gone is no news.
	quiet := slog.New(minLevel{Handler: log.Handler(), min: slog.LevelWarn})
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }))
}

// MailboxProducer makes the mailbox of one actor; the simulator has its own.
type MailboxProducer func(path string) actor.Mailbox

// Props is how every actor is spawned. Props are not inherited by children, so
// all go through this one function.
func Props(log *slog.Logger, index *actors.Index, strategy *Strategy, mailbox MailboxProducer) func(string, actor.Producer) *actor.Props {
	return func(path string, producer actor.Producer) *actor.Props {
		box := &answering{Mailbox: mailbox(path)}
		p := actor.PropsFromProducer(producer,
			actor.WithMailbox(func() actor.Mailbox {
				index.Mailbox(path, box.UserMessageCount)
				return box
			}),
			actor.WithSupervisor(strategy),
			actor.WithReceiverMiddleware(box.middleware, strategy.revival, panicMiddleware(log)),
		)
		if !strings.Contains(path, "/") { // nobody is above it who could supervise
			return p.Clone(actor.WithGuardian(strategy))
		}
		return p
	}
}

func unbounded(string) actor.Mailbox { return actor.Unbounded()() }

package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// session is something a caller does with a container or a pod that is a matter
// of its own for as long as it takes: a command in a container, an attach, a
// forwarded port. It ends with its parent.
type session struct {
	crew
	what   errand
	caller waiters
}

// errand is what a session does.
type errand struct {
	kind  string // exec, attach, forward: names the actor
	about string // for the tree
	lane  Lane
	until time.Time // when its caller's time is up; zero: never
	run   func(context.Context) (any, error)
}

func newSession(env *Env, e errand, caller *actor.PID) actor.Producer {
	// A second instance, after a panic, has nobody to answer and runs nothing:
	// a command is not run twice.
	started := false
	return func() actor.Actor {
		s := &session{crew: crew{env: env}, what: e}
		if !started {
			s.caller.join(caller)
		}
		started = true
		return s
	}
}

func (s *session) debts() []*waiters { return []*waiters{&s.caller} }

// Receive implements actor.Actor.
func (s *session) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.start(s.env, ctx, ctx.Self().Id)
		if len(s.caller) == 0 {
			ctx.Stop(ctx.Self())
			return
		}
		s.env.Index.putActor(messages.ActorInfo{Path: ctx.Self().Id, Kind: s.what.kind, State: "running", Since: s.env.Clock.Now(), Step: s.what.about})
		s.run(ctx)
	case *actor.Stopping, *actor.Restarting: // its parent is stopped or removed, or the daemon ends
		s.handled(m)
		settle(s.env, ctx.Self(), s)
	case *actor.Stopped:
		s.env.Index.dropActor(ctx.Self().Id)
	default:
		if !s.handled(m) {
			unexpected(s.env, ctx, "running")
		}
	}
}

func (s *session) run(ctx actor.Context) {
	self := ctx.Self()
	s.do(Job{Lane: s.what.lane, Name: s.what.kind, Limit: s.env.timeLeft(s.what.until, 0)}, s.what.run, func(d done) {
		s.caller.answer(s.env, d.value, d.err)
		s.env.System.Root.Stop(self)
	})
}

// open spawns a session below an actor.
func open(env *Env, ctx actor.Context, e errand) *actor.PID {
	id := fmt.Sprintf("%s-%d", e.kind, env.next())
	pid, err := ctx.SpawnNamed(env.Props(ctx.Self().Id+"/"+id, newSession(env, e, ctx.Sender())), id)
	if err != nil {
		panic(fmt.Errorf("spawn %s: %w", id, err))
	}
	return pid
}

// onExec runs a command and captures what it prints.
func (c *container) onExec(ctx actor.Context, m messages.ExecSync) {
	if !c.mayExec(ctx, m.Command) {
		return
	}
	r := backends.ExecRequest{Pod: m.Pod, Container: m.Container, Command: m.Command, Timeout: m.Timeout}
	run := c.env.Node.Runtime.Exec
	// The monitor keeps the time of the command; ours is the caller's.
	open(c.env, ctx, errand{kind: "exec", about: m.Command[0], lane: LaneProbe, until: m.Until(), run: func(ctx context.Context) (any, error) {
		return run(ctx, r)
	}})
}

func (c *container) mayExec(ctx actor.Context, command []string) bool {
	err := c.mustRun("no command can run in it")
	if err == nil && len(command) == 0 {
		err = messages.Errorf(messages.Invalid, "exec in container %s: there is no command", c.id)
	}
	if err != nil {
		c.env.reply(ctx.Sender(), nil, err)
	}
	return err == nil
}

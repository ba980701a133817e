package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// exec is one command in a container: it lives as long as the command.
type exec struct {
	crew
	req    messages.ExecSync
	caller waiters
}

func newExec(env *Env, m messages.ExecSync, caller *actor.PID) actor.Producer {
	// A second instance, after a panic, has nobody to answer and runs nothing:
	// a command is not run twice.
	started := false
	return func() actor.Actor {
		e := &exec{crew: crew{env: env}, req: m}
		if !started {
			e.caller.join(caller)
		}
		started = true
		return e
	}
}

func (e *exec) debts() []*waiters { return []*waiters{&e.caller} }

// Receive implements actor.Actor.
func (e *exec) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		e.start(e.env, ctx, ctx.Self().Id)
		if len(e.caller) == 0 {
			ctx.Stop(ctx.Self())
			return
		}
		e.env.Index.putActor(messages.ActorInfo{Path: ctx.Self().Id, Kind: "exec", State: "running", Since: e.env.Clock.Now(), Step: e.req.Command[0]})
		e.run(ctx)
	case *actor.Stopping, *actor.Restarting: // its container is removed, or the daemon ends
		e.handled(m)
		settle(e.env, ctx.Self(), e)
	case *actor.Stopped:
		e.env.Index.dropActor(ctx.Self().Id)
	default:
		if !e.handled(m) {
			unexpected(e.env, ctx, "running")
		}
	}
}

func (e *exec) run(ctx actor.Context) {
	r := backends.ExecRequest{Pod: e.req.Pod, Container: e.req.Container, Command: e.req.Command, Timeout: e.req.Timeout}
	self := ctx.Self()
	// The monitor keeps the time of the command; ours is the caller's.
	limit := time.Duration(0)
	if until := e.req.Until(); !until.IsZero() {
		limit = max(until.Sub(e.env.Clock.Now()), time.Nanosecond)
	}
	e.do(Job{Lane: LaneProbe, Name: "exec", Limit: limit}, func(ctx context.Context) (any, error) {
		return e.env.Node.Runtime.Exec(ctx, r)
	}, func(d done) {
		e.caller.answer(e.env, d.value, d.err)
		e.env.System.Root.Stop(self)
	})
}

// onExec spawns the session.
func (c *container) onExec(ctx actor.Context, m messages.ExecSync) {
	if err := c.mustRun("no command can run in it"); err != nil {
		c.env.reply(ctx.Sender(), nil, err)
		return
	}
	if len(m.Command) == 0 {
		c.env.reply(ctx.Sender(), nil, messages.Errorf(messages.Invalid, "exec in container %s: there is no command", c.id))
		return
	}
	id := fmt.Sprintf("exec-%d", c.env.next())
	if _, err := ctx.SpawnNamed(c.env.Props(ctx.Self().Id+"/"+id, newExec(c.env, m, ctx.Sender())), id); err != nil {
		panic(err)
	}
}

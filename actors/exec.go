package actors

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// exec is one command in a container: it lives as long as the command.
type exec struct {
	crew
	req    messages.ExecSync
	caller *actor.PID
}

func newExec(env *Env, m messages.ExecSync, caller *actor.PID) actor.Producer {
	return func() actor.Actor { return &exec{crew: crew{env: env}, req: m, caller: caller} }
}

// Receive implements actor.Actor.
func (e *exec) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		e.start(e.env, ctx, ctx.Self().Id)
		e.env.Index.putActor(messages.ActorInfo{Path: ctx.Self().Id, Kind: "exec", State: "running", Since: e.env.Clock.Now(), Step: e.req.Command[0]})
		e.run(ctx)
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
	// The monitor keeps the time of the command; there is no limit of ours.
	e.do(Job{Lane: LaneProbe, Name: "exec"}, func(ctx context.Context) (any, error) {
		return e.env.Node.Runtime.Exec(ctx, r)
	}, func(d done) {
		e.env.reply(e.caller, d.value, d.err)
		e.env.System.Root.Stop(self)
	})
}

// onExec spawns the session.
func (c *container) onExec(ctx actor.Context, m messages.ExecSync) {
	if c.state != messages.ContainerRunning && c.state != messages.ContainerStopping {
		c.env.reply(ctx.Sender(), nil, messages.Errorf(messages.Precondition, "container %s does not run: it is %s", c.id, c.state))
		return
	}
	id := fmt.Sprintf("exec-%d", c.env.next())
	if _, err := ctx.SpawnNamed(c.env.Props(ctx.Self().Id+"/"+id, newExec(c.env, m, ctx.Sender())), id); err != nil {
		panic(err)
	}
}

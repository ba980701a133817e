package actors

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Streamed sessions last as long as people like, so they take no place in a
// lane; the gateway bounds how many there are. Their streams are the backend's
// business.

// onExecStream runs a command with a client's streams.
func (c *container) onExecStream(ctx actor.Context, m messages.ExecStream) {
	if !c.mayExec(ctx, m.Command) {
		return
	}
	r := backends.ExecStreamRequest{Pod: m.Pod, Container: m.Container, Command: m.Command, TTY: m.TTY, Streams: m.Streams}
	run := c.env.Node.Runtime.ExecStream
	open(c.env, ctx, errand{kind: "exec", about: m.Command[0], lane: LaneWatch, until: m.Until(), run: func(ctx context.Context) (any, error) {
		return run(ctx, r)
	}})
}

// onAttach joins a client's streams to the container's.
func (c *container) onAttach(ctx actor.Context, m messages.Attach) {
	if err := c.mustRun("there is nothing to attach to"); err != nil {
		c.env.reply(ctx.Sender(), nil, err)
		return
	}
	r := backends.AttachRequest{Pod: m.Pod, Container: m.Container, Streams: m.Streams}
	run := c.env.Node.Runtime.Attach
	open(c.env, ctx, errand{kind: "attach", lane: LaneWatch, until: m.Until(), run: func(ctx context.Context) (any, error) {
		return messages.None{}, run(ctx, r)
	}})
}

// onForward joins a stream to a port of the pod.
func (s *sandbox) onForward(ctx actor.Context, m messages.PortForward) {
	if s.state != messages.PodReady {
		s.env.reply(ctx.Sender(), nil, messages.Errorf(messages.Precondition, "pod %s is %s, not ready: none of its ports can be reached", s.id, s.state))
		return
	}
	r := backends.ForwardRequest{Pod: s.id, NetNS: s.plan.Namespaces.Network, Port: m.Port, Stream: m.Stream, Gone: m.Gone}
	run := s.env.Node.Namespaces.Forward
	pid := open(s.env, ctx, errand{kind: "forward", about: fmt.Sprintf("port %d", m.Port), lane: LaneWatch, until: m.Until(), run: func(ctx context.Context) (any, error) {
		return messages.None{}, run(ctx, r)
	}})
	s.forwards[pid.Id] = pid
}

// endForwards ends the forwarded ports of a pod that is stopping: its network
// goes, and in the host's it would reach another's port.
func (s *sandbox) endForwards() {
	for _, id := range sortedKeys(s.forwards) {
		s.env.System.Root.Stop(s.forwards[id])
	}
	clear(s.forwards)
}

package supervisor

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// reply is the process a caller outside the tree waits behind. The library's
// futures know no context and race on a second answer (protoactor-go#1145).
type reply struct{ c chan messages.Reply }

// SendUserMessage implements actor.Process; a second answer is dropped.
func (r reply) SendUserMessage(_ *actor.PID, message any) {
	answer, ok := actor.UnwrapEnvelopeMessage(message).(messages.Reply)
	if !ok {
		// A dead letter: the actor has ended, for shutdown or after panics. That
		// is not NotFound, which for Stop and Remove would mean that all is done.
		answer = messages.Reply{Err: messages.Errorf(messages.Unavailable, "the actor that was asked has ended: ask again")}
	}
	select {
	case r.c <- answer:
	default:
	}
}

// SendSystemMessage implements actor.Process.
func (reply) SendSystemMessage(*actor.PID, any) {}

// Stop implements actor.Process.
func (reply) Stop(*actor.PID) {}

// Ask sends a request to the node actor and waits for the answer or for ctx.
// When the caller goes, the node is told, so that work only it waited for may end.
func (t *Tree) Ask(ctx context.Context, req any) (any, error) {
	if t.closing.Load() {
		return nil, messages.Errorf(messages.Unavailable, "troupe is shutting down")
	}
	r := reply{c: make(chan messages.Reply, 1)}
	registry := t.system.ProcessRegistry
	pid, ok := registry.Add(r, "ask/"+registry.NextId())
	if !ok {
		return nil, fmt.Errorf("reply process %s exists already", pid.Id)
	}
	defer registry.Remove(pid)
	t.system.Root.RequestWithCustomSender(t.node, req, pid)
	select {
	case a := <-r.c:
		return a.Value, a.Err
	case <-t.ended:
		return nil, messages.Errorf(messages.Unavailable, "troupe is shutting down")
	case <-ctx.Done():
		late := t.lateError(ctx, req) // first: what nobody waits for may end at once
		t.system.Root.Send(t.node, messages.Abandon{Caller: pid.Id})
		return nil, late
	}
}

// lateError says what the pod or container asked about is waiting on, or how far
// the pull is.
func (t *Tree) lateError(ctx context.Context, req any) error {
	if m, ok := req.(messages.PullImage); ok {
		return t.latePull(ctx, m)
	}
	about := ""
	if pod, container := t.env.Index.Making(req); pod != "" {
		about = t.activity(pod, container)
	} else if b, ok := req.(messages.Addressed); ok {
		about = t.activity(b.About())
	}
	return fmt.Errorf("no answer in time to %T%s; the work goes on and a retry joins it: %w", req, about, ctx.Err())
}

func (t *Tree) latePull(ctx context.Context, m messages.PullImage) error {
	p, found := t.env.Index.PullFor(m)
	if !found {
		return fmt.Errorf("pull of %s is not done in time: %w", messages.PullProgress{Ref: m.Ref, Source: m.Source}.Name(), ctx.Err())
	}
	then := "nobody else waits, so it ends; what has come is kept for the next pull"
	if p.Waiters > 1 {
		then = "it goes on, since others wait for it"
	}
	return fmt.Errorf("pull of %s is not done in time: %s; %s: %w", p.Name(), p.Describe(t.env.Clock.Now()), then, ctx.Err())
}

func (t *Tree) activity(pod, container string) string {
	now := t.env.Clock.Now()
	say := func(noun, id, state string, a messages.Activity) string {
		if a.Step != "" {
			return fmt.Sprintf(": %s %s is %s, in step %q, for %s", noun, id, state, a.Step, now.Sub(a.Since).Round(1e6))
		}
		return fmt.Sprintf(": %s %s is %s for %s", noun, id, state, now.Sub(a.Since).Round(1e6))
	}
	if c, err := t.env.Index.Container(container); container != "" && err == nil {
		return say("container", container, string(c.State), c.Activity)
	}
	if p, err := t.env.Index.Pod(pod); pod != "" && err == nil {
		return say("pod", pod, string(p.State), p.Activity)
	}
	return ""
}

// Ask is Tree.Ask with the reply's type checked by the compiler.
func Ask[R any](ctx context.Context, t *Tree, req messages.Request[R]) (R, error) {
	v, err := t.Ask(ctx, req)
	r, _ := v.(R)
	return r, err
}

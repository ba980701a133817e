package actors

import (
	"context"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// What the node's plugins hear, and when. They hear of a pod when all it has is
// there, and of its stop before anything of it goes; of its removal when
// nothing is left.

func runPlugins(ctx context.Context, n *backends.Node, p *podPlan) error {
	p.Told = true // also when it is refused: some plugins may have accepted it
	return n.Plugins.RunPod(ctx, p.forPlugins())
}

// noPlugins spares a node without plugins the step. One that connects from now
// on hears of the pod as of all others that are there, and of its end.
func noPlugins(n *backends.Node, p *podPlan) bool {
	p.Told = n.Plugins.NoneFor(p.forPlugins())
	return p.Told
}

func stopPlugins(ctx context.Context, n *backends.Node, p *podPlan) error {
	n.Plugins.StopPod(ctx, p.forPlugins())
	return nil
}

func (p *podPlan) forPlugins() backends.PluginPod {
	return backends.PluginPod{
		ID: p.ID, Config: p.Config, Handler: p.Handler, Cgroup: p.Cgroup,
		Namespaces: p.Namespaces, IPs: p.IPs, Pid: p.PausePid, Told: p.Told,
	}
}

func (p *containerPlan) forPlugins(state messages.ContainerState, st messages.ProcessState) backends.PluginContainer {
	return backends.PluginContainer{
		ID: p.ID, Pod: p.pod.forPlugins(), Config: p.Config, State: state, CreatedAt: p.CreatedAt, Process: st, Told: p.Told,
	}
}

// startTold starts the process: plugins are asked before and told after.
func startTold(ctx context.Context, n *backends.Node, p *containerPlan) (messages.ProcessState, error) {
	if err := n.Plugins.Start(ctx, p.forPlugins(messages.ContainerCreated, messages.ProcessState{})); err != nil {
		return messages.ProcessState{}, err
	}
	st, err := n.Runtime.Start(ctx, p.Pod, p.ID)
	switch {
	case err == nil:
		n.Plugins.Started(ctx, p.forPlugins(messages.ContainerRunning, st))
	case messages.KindOf(err) == messages.Unavailable:
		err = unanswered{err}
	}
	return st, err
}

// lookForStart asks for the process that a lost answer was about.
func lookForStart(ctx context.Context, n *backends.Node, p *containerPlan) (messages.ProcessState, error) {
	st, err := n.Runtime.State(ctx, p.Pod, p.ID)
	if err == nil && st.Status == messages.ProcessRunning {
		n.Plugins.Started(ctx, p.forPlugins(messages.ContainerRunning, st))
	}
	return st, err
}

// tellStopped tells of the exit. It goes by the container's key: after what
// plugins hear of its start, and before its removal. The pod's stop waits for
// it, as long as an undo may take.
func (c *container) tellStopped() {
	env, told := c.env, c.plan.forPlugins(messages.ContainerExited, c.process)
	told.Reason, told.Message = c.reason, c.message
	c.do(Job{Lane: LaneStop, Name: "tell plugins", Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		env.Node.Plugins.Stop(ctx, told)
		return nil, nil
	}, func(done) {
		c.telling = false
		c.sayEnded()
	})
}

// backEnded takes up a container that has ended. The telling of it an instance
// before this one may not have come to; plugins are told once all the same.
func (c *container) backEnded(state messages.ContainerState, again bool) {
	c.telling = again // before the pod can hear of it
	c.become(state)
	if again {
		c.tellStopped()
	}
}

// takeAdjusted makes the resources that plugins gave a new container its own:
// a later update changes what is in force, and that is what is shown.
func (c *container) takeAdjusted() {
	r := c.plan.Bundle.Adjusted
	if r == nil {
		return
	}
	c.plan.Bundle.Adjusted = nil
	c.plan.Config, c.conf = withResources(c.plan.Config, r)
}

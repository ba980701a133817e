package actors

import (
	"context"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// network watches whether pods can be attached, and lets the plugins collect
// what belongs to no pod. Attaching and detaching are steps of the pods.
type network struct {
	crew
	checking bool
	again    bool
	ok       bool
	told     bool
	collect  bool // CNI GC has been done since the network became ready
	callers  waiters
}

// networkChanged says that the configuration may be another.
type networkChanged struct{}

func newNetwork(env *Env) actor.Producer {
	return func() actor.Actor { return &network{crew: crew{env: env}} }
}

// Receive implements actor.Actor.
func (n *network) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		n.start(n.env, ctx, "network")
		n.show(messages.Condition{Reason: "NetworkPluginNotReady", Message: "the network has not been checked yet"})
		n.watch()
		n.round()
	case *actor.Stopping, *actor.Restarting:
		n.handled(m)
		settle(n.env, n.self, n)
	case *actor.Stopped:
		n.env.Index.dropActor(ctx.Self().Id)
	case messages.SetPodRanges:
		n.onRanges(ctx.Sender(), m)
	case networkChanged: // from the watch
		n.check()
	case podLost:
		n.collect = false
		n.check()
	default:
		if !n.handled(m) {
			unexpected(n.env, ctx, "")
		}
	}
}

func (n *network) debts() []*waiters { return []*waiters{&n.callers} }

// onRanges passes on the ranges of the pods' addresses; pods that are attached
// keep those they have.
func (n *network) onRanges(sender *actor.PID, m messages.SetPodRanges) {
	n.callers.join(sender)
	n.do(Job{Lane: LaneRead, Name: "pod ranges", Limit: n.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, n.env.Node.Network.SetRanges(ctx, m.Ranges)
	}, func(d done) {
		if n.callers.leave(sender) {
			n.env.reply(sender, messages.None{}, d.err)
		}
	})
}

func (n *network) watch() {
	env, self := n.env, n.self
	n.do(Job{Key: "network/watch", Lane: LaneWatch, Name: "watch"}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Network.Watch(ctx, func() { env.send(self, networkChanged{}) })
	}, func(d done) {
		if d.err != nil {
			env.Log.Warn("the CNI configuration is not watched; it is re-read by the clock", "err", d.err)
		}
		n.after(n.env.Settings.RetryMax, n.watch)
	})
}

// round re-reads by the clock as well: a watch can miss a change.
func (n *network) round() {
	n.check()
	n.after(n.env.Settings.RefreshEvery, n.round)
}

func (n *network) check() {
	if n.checking {
		n.again = true
		return
	}
	n.checking = true
	n.do(Job{Lane: LaneRead, Name: "status", Limit: n.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, n.env.Node.Network.Status(ctx)
	}, func(d done) {
		n.checking = false
		c := messages.Condition{OK: d.err == nil}
		if d.err != nil {
			c.Reason, c.Message = "NetworkPluginNotReady", d.err.Error()
		}
		n.show(c)
		if n.again {
			n.again = false
			n.check()
			return
		}
		if c.OK && !n.collect {
			n.collect = true
			n.gc()
		}
	})
}

func (n *network) show(c messages.Condition) {
	if c.OK != n.ok || !n.told {
		n.env.Log.Info("network", "ready", c.OK, reasonAttr(c.Message))
		n.ok, n.told = c.OK, true
	}
	state := "not ready"
	if c.OK {
		state = "ready"
	}
	n.env.Index.putNetwork(c)
	n.env.Index.putActor(messages.ActorInfo{Path: n.self.Id, Kind: "network", State: state, Since: n.env.Clock.Now()})
}

// gc tells the plugins which pods there are. A pod that is just starting is
// among them: the index has every pod from its first step on. So is one that
// has lost its record while its processes live: the sweeper ends them first.
// One whose namespaces were taken by a restart of the node is not: its
// addresses and ports are free at once, and not when somebody stops it.
func (n *network) gc() {
	index := n.env.Index
	n.do(Job{Lane: LaneStop, Name: "gc", Limit: n.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		processes, err := n.env.Node.Runtime.Held(ctx)
		if err != nil {
			return nil, err
		}
		namespaces, err := n.env.Node.Namespaces.Held(ctx)
		if err != nil {
			return nil, err
		}
		return nil, n.env.Node.Network.GC(ctx, func() []string {
			valid := index.attachable(namespaces)
			for _, p := range processes {
				valid = append(valid, p.Pod)
			}
			return valid
		})
	}, func(d done) {
		if d.err != nil {
			n.env.Log.Warn("CNI GC failed and is tried again", "err", d.err)
			n.collect = false
		}
	})
}

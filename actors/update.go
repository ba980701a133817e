package actors

import (
	"context"
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A container's resources change like this, and nothing is shown that is not in
// force:
//
//	translate   what cannot be is refused here, and nothing has happened
//	journal     the record notes that an update is under way
//	apply       the monitor sets all limits or none
//	bundle      config.json gets them, for a monitor that comes later
//	journal     the record gets them, and the note goes
//	show        the snapshot has them; the caller is answered
//
// What fails after the first note is taken back by the same calls with the old
// resources; so is what the daemon's death cut off (the note says so), before
// anybody can ask again. It is noted anew before that: the last write may have had
// its effect although it failed, and then the record has the new resources, and no
// note for a daemon that dies in the middle of this. The kubelet's retry then
// finds the container as it was before, and does it again from there: asking
// twice gives the same as asking once.

// update is a request that waits for its turn: each is merged into what the one
// before it left.
type update struct {
	caller waiters
	req    messages.UpdateContainer
}

// updated is the outcome of trying.
type updated struct {
	begun     bool // something may have changed
	unsettled bool // it was before
	conf      []byte
	plan      containerPlan
	state     messages.ContainerState // when it began
}

func (u *update) callers() *waiters { return &u.caller }

const (
	stepUpdate   = "update"
	stepTakeBack = "take update back"
)

func (c *container) onUpdate(sender *actor.PID, m messages.UpdateContainer) {
	if err := c.mayUpdate(); err != nil {
		c.env.reply(sender, nil, err)
		return
	}
	u := update{req: m}
	u.caller.join(sender)
	c.updates = append(c.updates, u)
	if !c.updating {
		c.nextUpdate()
	}
}

// mayUpdate: one that is being started can be updated too; the job waits for
// the start.
func (c *container) mayUpdate() error {
	switch c.state {
	case messages.ContainerCreated, messages.ContainerStarting, messages.ContainerRunning:
		return nil
	}
	return messages.Errorf(messages.Precondition, "container %s is %s: only a created or running one has resources to update", c.id, c.state)
}

// limited: it has a process whose limits matter.
func (c *container) limited() bool {
	return c.state == messages.ContainerStopping || c.mayUpdate() == nil
}

// nextUpdate does the first update in the queue.
func (c *container) nextUpdate() {
	c.updating = false
	for len(c.updates) > 0 {
		if err := c.mayUpdate(); err != nil {
			c.answerUpdate(err)
			continue
		}
		c.tryUpdate(c.updates[0].req)
		return
	}
}

// answerUpdate answers the first in the queue.
func (c *container) answerUpdate(err error) {
	if len(c.updates) == 0 { // of an earlier instance: nobody waits
		return
	}
	u := c.updates[0]
	c.updates = slices.Clone(c.updates[1:])
	u.caller.answer(c.env, messages.None{}, err)
}

func (c *container) tryUpdate(m messages.UpdateContainer) {
	next := updated{plan: c.plan, state: c.state, unsettled: c.unsettled}
	next.plan.Config, next.conf = withResources(c.plan.Config, m.Resources)
	begins, rec := c.updateRecord(c.conf, c.plan, true), c.recordNow()
	told := next.plan.forPlugins(c.state, c.process)
	env, place := c.env, c.place
	c.updating, c.unsettled, c.step = true, true, stepUpdate
	c.publish()
	c.do(Job{Lane: LaneStart, Name: stepUpdate, Limit: untilOf(env, m.Until())}, func(ctx context.Context) (any, error) {
		if err := next.askPlugins(ctx, env.Node, told, m.ByPlugin); err != nil {
			return next, err
		}
		r, err := env.Node.Bundles.Resources(ctx, place.Pod, place.Container, next.plan.resources())
		if err != nil {
			return next, err
		}
		next.begun = true
		if err := env.Node.Journal.Save(ctx, place, begins); err != nil {
			return next, err
		}
		if err := env.Node.Runtime.Update(ctx, place.Pod, place.Container, r); err != nil {
			return next, err
		}
		if err := env.Node.Bundles.SetResources(ctx, place.Pod, place.Container, r); err != nil {
			return next, err
		}
		rec.Config, rec.Plan, rec.Updating = next.conf, next.plan, false
		if err := env.Node.Journal.Save(ctx, place, encode(rec)); err != nil {
			return next, err
		}
		if !m.ByPlugin {
			told.Config = next.plan.Config
			env.Node.Plugins.Updated(ctx, told)
		}
		return next, nil
	}, c.updateTried)
}

// askPlugins lets plugins make something else of what is asked for.
func (u *updated) askPlugins(ctx context.Context, n *backends.Node, told backends.PluginContainer, byPlugin bool) error {
	if byPlugin {
		return nil
	}
	r, err := n.Plugins.Update(ctx, told)
	if err != nil || r == nil {
		return err
	}
	u.plan.Config, u.conf = withResources(u.plan.Config, r)
	return nil
}

// withResources is a container's config with what is asked for, and as the
// journal keeps it.
func withResources(old *runtime.ContainerConfig, asked *runtime.LinuxContainerResources) (*runtime.ContainerConfig, []byte) {
	next := proto.Clone(old).(*runtime.ContainerConfig)
	if next.Linux == nil {
		next.Linux = &runtime.LinuxContainerConfig{}
	}
	next.Linux.Resources = messages.Resized(old.GetLinux().GetResources(), asked)
	conf, err := proto.Marshal(next)
	if err != nil {
		panic(err) // it came out of the same library a moment ago
	}
	return next, conf
}

func (p *containerPlan) resources() *runtime.LinuxContainerResources {
	return p.Config.GetLinux().GetResources()
}

// updateRecord is what the journal keeps before and after.
func (c *container) updateRecord(conf []byte, plan containerPlan, updating bool) []byte {
	rec := c.recordNow()
	rec.Config, rec.Plan, rec.Updating = conf, plan, updating
	return encode(rec)
}

func (c *container) updateTried(d done) {
	c.past = c.past.took(c.env.Clock.Now(), d.name, d.took, d.err)
	next, told := d.value.(updated)
	switch {
	case d.err != nil && told && !next.begun && !next.unsettled:
		c.settled()
		c.answerUpdate(c.updateError(d.err))
		c.nextUpdate()
	case d.err != nil:
		c.env.Log.Warn("an update of resources failed and is taken back", "pod", c.pod, "container", c.id, "err", d.err)
		c.takeBack(c.updateError(d.err))
	default:
		c.plan.Config, c.conf = next.plan.Config, next.conf
		c.settled()
		if c.state != next.state { // it ended meanwhile: the record that tells of it has the old resources
			c.journal()
		}
		c.answerUpdate(nil)
		c.nextUpdate()
	}
}

func (c *container) updateError(err error) error {
	return fmt.Errorf("%s: update resources: %w", c.noun(), err)
}

func (c *container) settled() {
	c.unsettled, c.step = false, ""
	c.publish()
}

// takeBack puts the container's recorded resources in force again, and tries
// until that is done or there is nothing left to limit. The caller hears of the
// first try.
func (c *container) takeBack(first error) {
	c.updating, c.unsettled, c.step = true, true, stepTakeBack
	c.publish()
	env, place, old := c.env, c.place, c.plan.resources()
	begins, record := c.updateRecord(c.conf, c.plan, true), c.updateRecord(c.conf, c.plan, false)
	c.do(Job{Lane: LaneStop, Name: stepTakeBack, Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		if err := env.Node.Journal.Save(ctx, place, begins); err != nil {
			return nil, err
		}
		r, err := env.Node.Bundles.Resources(ctx, place.Pod, place.Container, old)
		if err != nil {
			return nil, err
		}
		if err := restoreLimits(ctx, env.Node, place, r); err != nil {
			return nil, err
		}
		if err := env.Node.Bundles.SetResources(ctx, place.Pod, place.Container, r); err != nil {
			return nil, err
		}
		return nil, env.Node.Journal.Save(ctx, place, record)
	}, func(d done) {
		c.past = c.past.took(c.env.Clock.Now(), d.name, d.took, d.err)
		if ended := !c.limited(); d.err == nil || ended {
			c.tries = 0
			c.settled()
			if ended && !c.over && c.state == messages.ContainerExited { // the record of its end says that it is unsettled
				c.journal()
			}
			if first != nil {
				c.answerUpdate(first)
			}
			c.nextUpdate()
			return
		}
		c.env.Log.Error("an update of resources could not be taken back yet and will be tried again", "pod", c.pod, "container", c.id, "err", d.err)
		if first != nil {
			c.answerUpdate(fmt.Errorf("%w; it could not be taken back either (this is tried again): %w", first, d.err))
		}
		c.nextUpdate()
		c.again(func() {
			switch {
			case !c.limited():
				c.unsettled = false
			case c.unsettled && !c.updating: // else the outcome of a later update settles it
				c.takeBack(nil)
			}
		})
	})
}

// restoreLimits is Update for what may have ended: then there is nothing to do.
func restoreLimits(ctx context.Context, n *backends.Node, k backends.Key, r backends.Resources) error {
	err := n.Runtime.Update(ctx, k.Pod, k.Container, r)
	if kind := messages.KindOf(err); err == nil || kind != messages.Precondition && kind != messages.NotFound {
		return err
	}
	st, stateErr := n.Runtime.State(ctx, k.Pod, k.Container)
	if stateErr == nil && st.Status != messages.ProcessCreated && st.Status != messages.ProcessRunning {
		return nil
	}
	return err
}

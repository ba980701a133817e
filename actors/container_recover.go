package actors

import (
	"context"
	"fmt"
	"slices"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// reread takes the container's own record from the journal, and what it knows of
// its pod from the pod's: the way back after a panic of this actor.
func (c *container) reread() {
	key := c.place
	c.do(Job{Lane: LaneRead, Name: "recover", Limit: c.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		records, _, err := c.env.Node.Journal.LoadPod(ctx, key.Pod)
		if err != nil {
			return nil, err
		}
		return recordIn(records, key)
	}, func(d done) {
		found, _ := d.value.(adoptContainer)
		switch {
		case d.err == nil:
			c.adopt(found)
		case messages.KindOf(d.err) == messages.NotFound:
			c.discard(found.pod)
		default:
			c.env.Log.Error("a container could not be recovered and will be tried again", "pod", c.pod, "container", c.id, "err", d.err)
			c.again(c.reread)
		}
	})
}

// recordIn is a container's record with its pod's. One without its pod's, or
// without its own, still knows whose it is.
func recordIn(records []backends.Record, key backends.Key) (m adoptContainer, err error) {
	m.pod, err = podPlan{ID: key.Pod}, messages.Errorf(messages.NotFound, "container %s has no record", key.Container)
	for _, r := range records {
		switch {
		case r.Key == key:
			m.rec, err = decodeContainer(r)
		case r.Key == backends.Key{Pod: key.Pod}:
			if pod, podErr := decodePod(r); podErr == nil {
				m.pod = pod.Plan
			}
		}
	}
	return m, err
}

// noRecord tells a container that its record is lost.
type noRecord struct{ pod podPlan }

// discard removes a container whose record is lost: what it has on the node goes
// by its id, and nothing can be shown or done of it any more.
func (c *container) discard(pod podPlan) {
	if c.adopted || c.state != "" {
		return
	}
	c.adopted = true
	c.plan = containerPlan{ID: c.id, Pod: c.pod, pod: pod}
	if s, ok := c.env.Index.container(c.id); ok {
		c.plan.Config, c.plan.CreatedAt = s.Config, s.CreatedAt
	}
	c.walk.Done = nil
	for _, s := range containerSteps {
		c.walk.Done = append(c.walk.Done, s.name)
	}
	c.env.Log.Error("the record of a container is lost: it is removed", "pod", c.pod, "container", c.id)
	c.become(messages.ContainerRemoving)
	c.unwind(onRemove, false)
}

// adopt takes the container up where its record left it. How its process is,
// the monitor knows better than the record.
func (c *container) adopt(m adoptContainer) {
	if c.adopted || c.state != "" {
		return // by its parent and by itself, after a panic at the wrong moment
	}
	c.adopted = true
	c.conf, c.plan, c.walk.Done = m.rec.Config, m.rec.Plan, slices.Clip(m.rec.Done)
	c.plan.pod = m.pod
	c.process, c.reason, c.message = m.rec.Process, m.rec.Reason, m.rec.Message
	// This daemon has shown it before: then an actor panicked, this one or its pod's.
	_, again := c.env.Index.container(c.id)
	switch m.rec.State {
	case messages.ContainerCreating: // its caller is gone; a retry starts afresh
		c.first = messages.Errorf(messages.Unavailable, "the daemon ended while container %s was created", c.plan.Config.GetMetadata().GetName())
		c.become(messages.ContainerCreating)
		c.unwind(onRemove, true)
	case messages.ContainerExited:
		c.backEnded(messages.ContainerExited, again)
		c.afterExit() // somebody may have asked for it meanwhile
	case messages.ContainerRemoving:
		c.backEnded(messages.ContainerRemoving, again)
		c.stopping.answer(c.env, messages.None{}, nil)
		c.unwind(onRemove, false)
	default:
		c.unsettled = m.rec.Updating
		c.takeAdjusted()
		c.findProcess()
	}
}

// findProcess asks for the process until there is an answer. Until then the
// container is shown as it was recorded.
func (c *container) findProcess() {
	pod, id := c.pod, c.id
	c.do(Job{Lane: LaneRead, Name: "find process", Limit: c.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return c.env.Node.Runtime.State(ctx, pod, id)
	}, func(d done) {
		if d.err != nil {
			c.env.Log.Warn("the state of a container is not known yet", "pod", pod, "container", id, "err", d.err)
			c.again(c.findProcess)
			return
		}
		c.tries = 0
		if c.overtook != nil {
			c.found(*c.overtook)
			return
		}
		c.found(d.value.(messages.ProcessState))
	})
}

func (c *container) found(st messages.ProcessState) {
	switch st.Status {
	case messages.ProcessCreated:
		c.process = st
		c.become(messages.ContainerCreated)
	case messages.ProcessRunning:
		c.process = st
		c.become(messages.ContainerRunning)
	case messages.ProcessExited, messages.ProcessGone:
		if st.Status == messages.ProcessGone {
			st.ExitUnknown, st.ExitedAt = true, c.env.Clock.Now()
		}
		c.unsettled = false
		c.exit(st)
	default:
		panic(fmt.Sprintf("container %s: process status %q", c.id, st.Status))
	}
	if c.unsettled && c.mayUpdate() == nil {
		c.takeBack(nil)
	}
	if c.kill.asked() { // meanwhile, and perhaps for a removal
		c.pursue()
		return
	}
	// A pod that stops may have asked for its end when the last instance panicked.
	c.env.send(c.parent(), containerBack{id: c.id})
}

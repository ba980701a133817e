package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// kill is a stop under way.
type kill struct {
	deadline time.Time // when SIGKILL is due
	stop     func()    // of the timer
	signaled bool      // the stop signal is sent once, whatever the retries
	forced   bool      // SIGKILL has been sent at least once
	tries    int
	remove   bool // remove when the exit is known
}

func (k *kill) asked() bool { return !k.deadline.IsZero() || k.remove }

func (c *container) onStop(sender *actor.PID, grace time.Duration) {
	switch c.state {
	case messages.ContainerExited, messages.ContainerRemoving:
		c.env.reply(sender, messages.None{}, nil)
		return
	case messages.ContainerCreating:
		c.stopping.join(sender)
		c.abort(c.wasEnded("stopped"))
		return
	}
	c.stopping.join(sender)
	if c.state == messages.ContainerCreated {
		grace = 0 // nothing of the user's runs that could use it
	}
	due := c.env.Clock.Now().Add(grace)
	if !c.kill.deadline.IsZero() && !due.Before(c.kill.deadline) {
		return // a stop with a shorter grace is under way
	}
	c.kill.deadline = due
	if c.state != messages.ContainerStarting { // else when it has started
		c.pursue()
	}
}

// pursue does what is due for the stop: the stop signal once, SIGKILL at the
// deadline and again until the process is gone. An exit is looked for as well
// as waited for, so that a lost fact holds nobody up.
func (c *container) pursue() {
	if c.state == messages.ContainerCreated || c.state == messages.ContainerRunning {
		c.become(messages.ContainerStopping)
	}
	if c.state != messages.ContainerStopping {
		return
	}
	if c.kill.stop != nil {
		c.kill.stop()
	}
	now, wait := c.env.Clock.Now(), time.Duration(0)
	switch {
	case !now.Before(c.kill.deadline):
		c.signal("SIGKILL", true)
		if c.kill.forced {
			c.ask()
		}
		c.kill.forced = true
		wait = min(c.env.Settings.KillPatience<<min(c.kill.tries, 6), time.Minute)
		c.kill.tries++
	default:
		if !c.kill.signaled {
			c.kill.signaled = true
			c.signal(c.plan.Bundle.StopSignal, false)
		}
		wait = c.kill.deadline.Sub(now)
	}
	c.kill.stop = c.after(wait, c.pursue)
}

// signal goes by a key of its own: it must not wait for a job of the
// container that hangs.
func (c *container) signal(name string, all bool) {
	pod, id := c.pod, c.id
	c.do(Job{Key: id + "/signal", Lane: LaneStop, Name: name, Limit: c.env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, c.env.Node.Runtime.Signal(ctx, pod, id, name, all)
	}, func(d done) {
		c.past = c.past.took(c.env.Clock.Now(), "signal "+name, d.took, d.err)
		if d.err != nil {
			c.env.Log.Warn("a signal was not delivered", "pod", pod, "container", id, "signal", name, "err", d.err)
		}
	})
}

// ask re-reads the process's state.
func (c *container) ask() {
	pod, id := c.pod, c.id
	c.do(Job{Key: id + "/state", Lane: LaneRead, Name: "state", Limit: c.env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return c.env.Node.Runtime.State(ctx, pod, id)
	}, func(d done) {
		if d.err == nil {
			c.onFact(d.value.(messages.ProcessState))
		}
	})
}

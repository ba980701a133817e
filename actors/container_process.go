package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exit reasons, as the kubelet and its users know them.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOM        = "OOMKilled"
	reasonSeccomp    = "seccomp killed" // CRI-O's words
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"
)

// startErrorCode is the exit code of a container whose command could not be
// run (as containerd reports it, and shells with "not found" nearly do).
const startErrorCode = 128

// sigsys is SIGSYS, which the kernel sends for a system call that a seccomp
// filter forbids. Its number is another on MIPS, which Kubernetes left.
const sigsys = 31

// kill is a stop under way.
type kill struct {
	deadline time.Time // when SIGKILL is due
	stop     func()    // of the timer
	signaled bool      // the stop signal is sent once, whatever the retries
	forced   bool      // SIGKILL has been sent at least once
	tries    int
	remove   bool // remove when the exit is known
}

// --- starting ---

func (c *container) onStart(sender *actor.PID) {
	switch c.state {
	case messages.ContainerCreated:
		c.starting.join(sender)
		c.become(messages.ContainerStarting)
		plan, limit := c.plan, c.env.Settings.StepLimit
		if c.plan.Images != "" {
			limit = restoreLimit
		}
		c.do(Job{Lane: LaneStart, Name: "start", Limit: limit}, func(ctx context.Context) (any, error) {
			return startTold(ctx, c.env.Node, &plan)
		}, c.started)
	case messages.ContainerStarting:
		c.starting.join(sender)
	case messages.ContainerRunning:
		c.env.reply(sender, messages.None{}, nil)
	default:
		c.env.reply(sender, nil, messages.Errorf(messages.Precondition, "container %s cannot be started: it is %s", c.id, c.state))
	}
}

func (c *container) started(d done) {
	c.past = c.past.took(c.env.Clock.Now(), d.name, d.took, d.err)
	if c.state != messages.ContainerStarting {
		return // its exit overtook the answer; the callers have been told
	}
	if d.err != nil {
		c.startFailed(fmt.Errorf("container %s: step start: %w", c.plan.Config.GetMetadata().GetName(), d.err))
		return
	}
	st := d.value.(messages.ProcessState)
	c.process.Pid, c.process.StartedAt, c.process.Status = st.Pid, st.StartedAt, st.Status
	c.become(messages.ContainerRunning)
	c.journalThen(func() { c.starting.answer(c.env, messages.None{}, nil) })
	c.dropImages()
	if c.kill.asked() {
		c.pursue()
	}
}

// startFailed begins the end of a container that could not be started. An error
// does not say that nothing runs: the process is pursued until its end is
// known. Then the failure is taken down as the container's exit and answered,
// so that the caller who looks next sees it.
func (c *container) startFailed(err error) {
	c.startErr = err
	c.kill.deadline = c.env.Clock.Now()
	c.become(messages.ContainerStopping)
	c.pursue()
	c.ask()
}

// --- exiting ---

// onFact takes in what the monitor says. Only an exit changes anything: the
// rest is known, or asked for when it is needed.
func (c *container) onFact(st messages.ProcessState) {
	switch c.state {
	case "": // its process is being looked for: the answer may be older than this
		if st.Status == messages.ProcessExited {
			c.overtook = &st
		}
		return
	case messages.ContainerCreated, messages.ContainerStarting, messages.ContainerRunning, messages.ContainerStopping:
	default:
		return
	}
	switch st.Status {
	case messages.ProcessExited:
		c.exit(st)
	case messages.ProcessGone:
		st.ExitUnknown, st.ExitedAt = true, c.env.Clock.Now()
		c.exit(st)
	}
}

func (c *container) exit(st messages.ProcessState) {
	if c.state == messages.ContainerStarting && st.StartedAt.IsZero() {
		return // it died on the way to its command: Start says why
	}
	if !st.StartedAt.IsZero() {
		c.process.StartedAt = st.StartedAt
	}
	// What ends before its start is the runtime's own init, which waits for it: its
	// code (2, when a SIGTERM ends it) says nothing of the container.
	early := (c.state == messages.ContainerCreated || c.state == "") && c.process.StartedAt.IsZero() && st.Signal == 0 && !st.ExitUnknown
	st.ExitUnknown = st.ExitUnknown || early
	c.process.Status, c.process.ExitedAt, c.process.ExitCode = st.Status, st.ExitedAt, st.ExitCode
	c.process.OOMKilled, c.process.ExitUnknown, c.process.Signal = st.OOMKilled, st.ExitUnknown, st.Signal
	c.reason, c.message = exitReason(st, hasSeccompProfile(c.plan.Config))
	if st.ExitUnknown {
		c.process.ExitCode = -1
	}
	if early {
		c.message = "it was ended before it was started"
	}
	if c.startErr != nil {
		c.process.ExitCode, c.process.ExitUnknown = startErrorCode, false
		c.reason, c.message = reasonStartError, c.startErr.Error()
		if c.process.StartedAt.IsZero() {
			c.process.StartedAt = st.ExitedAt
		}
	}
	c.telling = true // before the pod can hear of it
	c.become(messages.ContainerExited)
	c.journal()
	c.tellStopped()
	c.starting.answer(c.env, messages.None{}, c.startErr) // without one it had started
	c.afterExit()
}

func (c *container) afterExit() {
	if c.kill.stop != nil {
		c.kill.stop()
	}
	c.stopping.answer(c.env, messages.None{}, nil)
	if c.kill.remove || len(c.removing) > 0 {
		c.beginRemoval()
	}
}

// hasSeccompProfile says whether a SIGSYS can have come from a filter.
func hasSeccompProfile(c *runtime.ContainerConfig) bool {
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetSeccomp() != nil {
		return sc.GetSeccomp().GetProfileType() != runtime.SecurityProfile_Unconfined
	}
	//lint:ignore SA1019 deprecated, and still sent by older clients
	old := sc.GetSeccompProfilePath()
	return old != "" && old != "unconfined"
}

// exitReason puts an exit into the words of Kubernetes. An exit that nobody
// saw is never given a code that means something.
func exitReason(st messages.ProcessState, confined bool) (reason, message string) {
	switch {
	case st.ExitUnknown:
		return reasonUnknown, "how the process ended is not known: the monitor or the node was restarted, and this kernel cannot tell"
	case st.OOMKilled:
		return reasonOOM, ""
	case st.ExitCode == 0:
		return reasonCompleted, ""
	case st.Signal == sigsys && confined:
		return reasonSeccomp, "ended by SIGSYS: its seccomp profile forbids a system call that it made (the kernel's audit log names it)"
	}
	return reasonError, ""
}

// --- stopping ---

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

// --- logs ---

func (c *container) onReopen(sender *actor.PID) {
	if err := c.mustRun("its log cannot be reopened"); err != nil {
		c.env.reply(sender, nil, err)
		return
	}
	pod, id := c.pod, c.id
	c.reopening.join(sender)
	c.do(Job{Key: id + "/log", Lane: LaneProbe, Name: "reopen log", Limit: c.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, c.env.Node.Runtime.ReopenLog(ctx, pod, id)
	}, func(d done) {
		if c.reopening.leave(sender) {
			c.env.reply(sender, messages.None{}, d.err)
		}
	})
}

// mustRun refuses what only a living container can do.
func (c *container) mustRun(otherwise string) error {
	switch c.state {
	case messages.ContainerRunning, messages.ContainerStopping:
		return nil
	}
	return messages.Errorf(messages.Precondition, "container %s is %s, not running: %s", c.id, c.state, otherwise)
}

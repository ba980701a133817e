package actors

import (
	"context"
	"errors"
	"fmt"

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

// --- starting ---

func (c *container) onStart(sender *actor.PID) {
	switch c.state {
	case messages.ContainerCreated:
		c.starting.join(sender)
		c.become(messages.ContainerStarting)
		c.launch()
	case messages.ContainerStarting:
		c.starting.join(sender)
	case messages.ContainerRunning:
		c.env.reply(sender, messages.None{}, nil)
	default:
		c.env.reply(sender, nil, messages.Errorf(messages.Precondition, "container %s cannot be started: it is %s", c.id, c.state))
	}
}

func (c *container) launch() {
	plan, limit := c.plan, c.env.Settings.StepLimit
	if c.plan.Images != "" {
		limit = restoreLimit
	}
	c.do(Job{Lane: LaneStart, Name: "start", Limit: limit}, func(ctx context.Context) (any, error) {
		return startTold(ctx, c.env.Node, &plan)
	}, c.started)
}

// unanswered is a request whose answer was lost with the monitor.
type unanswered struct{ error }

// askStart finds out what became of an unanswered start. Containers live on
// when the monitor dies: this one may run, or have ended by itself.
func (c *container) askStart(lost unanswered) {
	env, plan := c.env, c.plan
	c.do(Job{Lane: LaneStart, Name: "look for the start", Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return lookForStart(ctx, env.Node, &plan)
	}, func(d done) {
		if c.state != messages.ContainerStarting {
			return // its exit was told meanwhile
		}
		if d.err != nil {
			env.Log.Warn("what became of a start is not known yet", append(c.attrs(), "lost", lost.error, "err", d.err)...)
			c.again(func() { c.askStart(lost) })
			return
		}
		c.tries = 0
		switch st := d.value.(messages.ProcessState); {
		case st.Status == messages.ProcessRunning:
			c.runs(st)
		case st.Status == messages.ProcessCreated:
			c.launch()
		case st.Status == messages.ProcessExited && !st.StartedAt.IsZero():
			c.exit(st)
		default:
			c.startFailed(lost.error)
		}
	})
}

func (c *container) started(d done) {
	c.past = c.past.took(c.env.Clock.Now(), d.name, d.took, d.err)
	if c.state != messages.ContainerStarting {
		return // its exit overtook the answer; the callers have been told
	}
	if unanswered := (unanswered{}); errors.As(d.err, &unanswered) {
		c.askStart(unanswered)
		return
	}
	if d.err != nil {
		c.startFailed(d.err)
		return
	}
	c.runs(d.value.(messages.ProcessState))
}

func (c *container) runs(st messages.ProcessState) {
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
	c.startErr = fmt.Errorf("container %s: step start: %w", c.plan.Config.GetMetadata().GetName(), err)
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
	// code (2, when a SIGTERM ends it) says nothing of the container. So it is while
	// a container is stopped that was only created.
	early := c.state != messages.ContainerRunning && c.process.StartedAt.IsZero() && st.Signal == 0 && !st.ExitUnknown
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

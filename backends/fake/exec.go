package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// command is a command that runs in a container.
type command struct {
	in      *process
	program Program
	waiter  Waiter
	due     time.Time // it ends by itself; zero: never
	limit   time.Time // it is killed; zero: never
	crashes int       // of monitors, when it began
}

// Exec runs a command for as long as its program says, and not longer than its
// timeout, its container, the monitor, or its caller.
func (b runtimeBackend) Exec(ctx context.Context, r backends.ExecRequest) (messages.ExecResult, error) {
	return b.command(ctx, "Exec", r)
}

func (b runtimeBackend) command(ctx context.Context, method string, r backends.ExecRequest) (messages.ExecResult, error) {
	n, c := b.n, &command{}
	err := b.withMonitor(ctx, runtimeCall(method, r.Pod, r.Container), func() error { return n.begin(c, r) })
	if err != nil {
		return messages.ExecResult{}, err
	}
	defer n.change(func() {
		c.in.execs = slices.DeleteFunc(c.in.execs, func(o *Waiter) bool { return o == &c.waiter })
	})
	for {
		result, ended, err := n.look(c)
		if err == nil && !ended {
			err = n.hook.Wait(ctx, &c.waiter)
		}
		if err != nil {
			return messages.ExecResult{}, fmt.Errorf("exec in container %.12s: %w", r.Container, err)
		}
		if ended {
			return result, nil
		}
	}
}

func (n *Node) begin(c *command, r backends.ExecRequest) error {
	p, err := n.runs(r.Pod, r.Container)
	if err != nil {
		return err
	}
	if len(r.Command) == 0 {
		return messages.Errorf(messages.Invalid, "there is no command")
	}
	now := n.hook.Now()
	c.in, c.program, c.crashes = p, n.conf.Programs(r.Command), n.runtime.crashes
	if c.program.NotFound {
		return messages.Errorf(messages.Internal, "exec: %q: executable file not found in $PATH", r.Command[0])
	}
	if c.program.Ends {
		c.due = now.Add(c.program.After)
	}
	if r.Timeout > 0 {
		c.limit = now.Add(r.Timeout)
	}
	p.execs = append(p.execs, &c.waiter)
	return nil
}

// look says whether a command has ended, and how.
func (n *Node) look(c *command) (result messages.ExecResult, ended bool, err error) {
	err = n.locked(func() error {
		now := n.hook.Now()
		result = messages.ExecResult{Stdout: c.program.Stdout, Stderr: c.program.Stderr, ExitCode: c.program.Code}
		inTime := c.limit.IsZero() || !c.limit.Before(c.due)
		switch {
		case c.crashes != n.runtime.crashes:
			return messages.Errorf(messages.Unavailable, "the connection to the monitor ended: the monitor has died")
		case !c.due.IsZero() && !now.Before(c.due) && inTime:
			ended = true
		case !c.limit.IsZero() && !now.Before(c.limit):
			return messages.Errorf(messages.Deadline, "the command did not end within its timeout and was killed")
		case c.in.Status != messages.ProcessRunning: // the end of a PID namespace kills all in it
			ended, result.ExitCode = true, 137
		}
		c.waiter.rest(earlier(c.due, c.limit))
		return nil
	})
	return result, ended, err
}

// earlier is the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

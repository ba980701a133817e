//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

const (
	// captureMax is how much of each stream an exec keeps (CRI ExecSync).
	captureMax = 16 << 20
	// captureLinger is how long an exec waits, after its process has ended,
	// for others that hold its pipes to finish writing.
	captureLinger = 250 * time.Millisecond
	// execGrace is how long an exec that ran out of time may take to be killed
	// before its caller is answered anyway.
	execGrace = 2 * time.Second
)

// exec runs a command in a running container and captures what it prints. When
// ctx or the timeout ends, the command and its descendants are killed.
func (m *monitor) exec(ctx context.Context, r wire.Exec) (wire.ExecResult, error) {
	c, err := m.mayExec(r.Ref, r.Command)
	if err != nil {
		return wire.ExecResult{}, err
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	type outcome struct {
		result wire.ExecResult
		err    error
	}
	done := make(chan outcome, 1)
	m.guard("exec", func() {
		result, err := c.run(ctx, r)
		done <- outcome{result, err}
	})
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		select {
		case o = <-done:
		case <-time.After(execGrace): // run goes on cleaning up
			o.err = ctx.Err()
		}
	}
	switch {
	case errors.Is(o.err, context.DeadlineExceeded):
		return o.result, failf(wire.Deadline, "command %q in container %s timed out after %v", r.Command, r.Key(), r.Timeout)
	case errors.Is(o.err, context.Canceled):
		return o.result, failf(wire.Canceled, "command %q in container %s: the caller went away", r.Command, r.Key())
	case o.err != nil:
		return o.result, c.execFailed(o.err)
	}
	return o.result, nil
}

// execFailed says why a command was not run. That the container ended while
// its namespaces were being entered is no fault: a probe meets it whenever
// what it watches dies.
func (c *container) execFailed(err error) error {
	s := c.state()
	_, gone := os.Stat(fmt.Sprintf("/proc/%d/ns/mnt", s.Pid)) // a process that has ended is in none, even before its exit is known here
	if s.Status != wire.Running || gone != nil {
		return failf(wire.Precondition, "exec in container %s: it ended before the command could start", c.ref.Key())
	}
	return failf(wire.Internal, "exec in container %s: %v", c.ref.Key(), err)
}

// mayExec finds the container, if a command can run in it.
func (m *monitor) mayExec(r wire.Ref, command []string) (*container, error) {
	c, err := m.mustFind(r)
	if err != nil {
		return nil, err
	}
	if len(command) == 0 {
		return nil, failf(wire.Invalid, "exec in container %s: the command is empty", r.Key())
	}
	if s := c.state(); s.Status != wire.Running {
		return nil, failf(wire.Precondition, "exec in container %s: it is %s, not running", r.Key(), s.Status)
	}
	return c, nil
}

// run does one captured exec from its pipes to its exit code.
func (c *container) run(ctx context.Context, r wire.Exec) (wire.ExecResult, error) {
	process, err := c.command(r.Command, nil)
	if err != nil {
		return wire.ExecResult{}, err
	}
	ends := &stdio{}
	defer ends.closeAll()
	if process.Stdout, process.Stderr, err = ends.outputs(); err != nil {
		return wire.ExecResult{}, err
	}
	out := captured{out: &capture{max: captureMax}, err: &capture{max: captureMax}}
	defer out.close()
	status, err := c.execute(ctx, process, func() error {
		ends.closeTheirs()
		return out.open(c.m.loop, ends)
	})
	if err != nil {
		return wire.ExecResult{}, err
	}
	stdout, stderr := out.output(ctx)
	return wire.ExecResult{Stdout: stdout, Stderr: stderr, ExitCode: status.code}, nil
}

// command is the container's process with another command; terminal is nil when
// it gets none.
func (c *container) command(args []string, terminal *specs.Box) (*process, error) {
	spec, err := c.m.readSpec(wire.Create{Ref: c.ref, Bundle: c.record.Bundle})
	if err != nil {
		return nil, fmt.Errorf("its bundle: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal, p.ConsoleSize = args, terminal != nil, terminal
	hasTerm := func(e string) bool { return strings.HasPrefix(e, "TERM=") }
	if terminal != nil && !slices.ContainsFunc(p.Env, hasTerm) {
		p.Env = append(p.Env, "TERM=xterm") // as docker and containerd do
	}
	return newProcess(p)
}

// execute runs a prepared process to its end. started is called once it runs.
// When ctx ends, or started fails, it is killed with what came of it.
func (c *container) execute(ctx context.Context, process *process, started func() error) (exitStatus, error) {
	reap, err := c.enter(ctx, process)
	if err != nil {
		return exitStatus{}, err
	}
	pid, err := process.Pid()
	if err != nil { // it cannot be: enter has read it
		return exitStatus{}, err
	}
	end, err := c.m.loop.watchEnd(pid)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = reap()
		return exitStatus{}, err
	}
	defer end.close()
	entry := execEntry(c, pid)
	c.m.keeper.set(entry, pid, slot{slotPidfd, end.pidfd})
	defer c.m.keeper.drop(entry)
	if err = started(); err == nil {
		select {
		case <-end.ended:
			status, err := reap()
			if err != nil {
				return exitStatus{}, fmt.Errorf("wait for it: %w", err)
			}
			return status, nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	c.killTree(pid)
	<-end.ended
	_, _ = reap()
	return exitStatus{}, err
}

// enter makes the process in the container.
func (c *container) enter(ctx context.Context, p *process) (reap func() (exitStatus, error), err error) {
	if err := c.engine.exec(ctx, p); err != nil {
		return nil, err
	}
	return p.reap, nil
}

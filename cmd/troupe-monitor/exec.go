//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	c, err := m.mustFind(r.Ref)
	if err != nil {
		return wire.ExecResult{}, err
	}
	if len(r.Command) == 0 {
		return wire.ExecResult{}, failf(wire.Invalid, "exec in container %s: the command is empty", r.Key())
	}
	if s := c.state(); s.Status != wire.Running {
		return wire.ExecResult{}, failf(wire.Precondition, "exec in container %s: it is %s, not running", r.Key(), s.Status)
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
		return o.result, failf(wire.Internal, "exec in container %s: %v", r.Key(), o.err)
	}
	return o.result, nil
}

// run does one exec from its pipes to its exit code.
func (c *container) run(ctx context.Context, r wire.Exec) (wire.ExecResult, error) {
	spec, err := c.m.readSpec(wire.Create{Ref: c.ref, Bundle: c.record.Bundle})
	if err != nil {
		return wire.ExecResult{}, fmt.Errorf("its bundle: %w", err)
	}
	spec.Process.Args, spec.Process.Terminal = r.Command, false
	process, err := newProcess(spec.Process)
	if err != nil {
		return wire.ExecResult{}, err
	}
	ends := &stdio{}
	defer ends.closeAll()
	if process.Stdout, process.Stderr, err = ends.outputs(); err != nil {
		return wire.ExecResult{}, err
	}
	reap, err := c.enter(ctx, process)
	if err != nil {
		return wire.ExecResult{}, err
	}
	ends.closeTheirs()
	p, err := c.follow(process, ends)
	if err != nil {
		pid, _ := process.Pid()
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = reap()
		return wire.ExecResult{}, err
	}
	defer p.close()
	select {
	case <-p.ended:
	case <-ctx.Done():
		c.killTree(p.pid)
		<-p.ended
		_, _ = reap()
		return wire.ExecResult{}, ctx.Err()
	}
	status, err := reap()
	if err != nil {
		return wire.ExecResult{}, fmt.Errorf("wait for it: %w", err)
	}
	stdout, stderr := p.output(ctx)
	return wire.ExecResult{Stdout: stdout, Stderr: stderr, ExitCode: status.code}, nil
}

// enter makes the process in the container.
func (c *container) enter(ctx context.Context, p *process) (reap func() (exitStatus, error), err error) {
	if err := c.engine.exec(ctx, p); err != nil {
		return nil, err
	}
	return p.reap, nil
}

// execProcess is a running exec.
type execProcess struct {
	loop           *loop
	pid, pidfd     int
	token          uint64
	ended          chan struct{}
	stdout, stderr *stream
	out, err       *capture
}

func (c *container) follow(process *process, ends *stdio) (_ *execProcess, err error) {
	p := &execProcess{loop: c.m.loop, ended: make(chan struct{}), out: &capture{max: captureMax}, err: &capture{max: captureMax}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.pid, err = process.Pid(); err != nil {
		return nil, err
	}
	if p.pidfd, err = unix.PidfdOpen(p.pid, 0); err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	if p.stdout, err = openStream(p.loop, ends.stdout, p.out); err != nil {
		return nil, err
	}
	ends.stdout = nil
	if p.stderr, err = openStream(p.loop, ends.stderr, p.err); err != nil {
		return nil, err
	}
	ends.stderr = nil
	// One shot: the first report is the only one, and close drops the watch.
	p.token, err = p.loop.add(p.pidfd, unix.EPOLLIN|unix.EPOLLONESHOT, func(uint32, []byte) { close(p.ended) })
	return p, err
}

// output is what was captured once the streams have ended, or captureLinger has passed.
func (p *execProcess) output(ctx context.Context) (stdout, stderr []byte) {
	p.stdout.drain()
	p.stderr.drain()
	limit := time.NewTimer(captureLinger)
	defer limit.Stop()
	for _, s := range []*stream{p.stdout, p.stderr} {
		select {
		case <-s.done:
			continue
		case <-limit.C:
		case <-ctx.Done():
		}
		break
	}
	p.stdout.stop()
	p.stderr.stop()
	return p.out.bytes(), p.err.bytes()
}

func (p *execProcess) close() {
	p.stdout.stop()
	p.stderr.stop()
	if p.pidfd > 0 {
		if p.token != 0 {
			p.loop.drop(p.pidfd, p.token)
		}
		unix.Close(p.pidfd)
		p.pidfd = 0
	}
}

//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// killWait is how long a killed init may take to end before Delete gives up;
// the next Delete goes on.
const killWait = 10 * time.Second

// delete kills what is left of a container and forgets it. An unknown one is a
// success.
func (m *monitor) delete(ctx context.Context, r wire.Ref) error {
	if err := checkRef(r); err != nil {
		return err
	}
	c := m.find(r)
	if c == nil {
		return nil
	}
	if err := c.overtake(ctx); err != nil {
		return err
	}
	defer c.release()
	if m.find(r) != c {
		return nil // another Delete was faster
	}
	c.mu.Lock()
	alive, running := c.alive(), c.alive() && c.pidfd >= 0
	c.mu.Unlock()
	if running {
		if err := errors.Join(c.signal(unix.SIGKILL, false), c.signalAll(unix.SIGKILL)); err != nil {
			return failf(wire.Internal, "delete container %s: %v", r.Key(), err)
		}
	}
	if alive && !running {
		c.exited(exitStatus{code: startFailed}, false)
	}
	if alive {
		select {
		case <-c.over:
		case <-ctx.Done():
			return failf(wire.Deadline, "delete container %s: process %d has not ended after SIGKILL yet", r.Key(), c.state().Pid)
		case <-time.After(killWait):
			return failf(wire.Internal, "delete container %s: process %d does not end after SIGKILL; it may hang in the kernel (see /proc/%[2]d/stack)", r.Key(), c.state().Pid)
		}
	}
	if err := c.destroy(); err != nil {
		return failf(wire.Internal, "delete container %s: %v", r.Key(), err)
	}
	m.remove(c)
	return nil
}

// overtake acquires the step, and makes a step that hangs fail by killing what
// it works on.
func (c *container) overtake(ctx context.Context) error {
	select {
	case c.op <- struct{}{}:
		return nil
	case <-time.After(time.Second):
	}
	c.mu.Lock()
	abort := c.abort
	c.mu.Unlock()
	if abort != nil {
		abort()
	}
	if err := c.signalAll(unix.SIGKILL); err != nil {
		c.log.Warn("a step that hangs cannot be ended", "err", err)
	}
	select {
	case c.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failf(wire.Deadline, "delete container %s: a step of it that hangs has not ended after SIGKILL yet", c.ref.Key())
	case <-time.After(killWait): // whoever asked holds a place that others need
		return failf(wire.Internal, "delete container %s: a step of it does not end after SIGKILL; a process of it may hang in the kernel (a mount of a server that does not answer?)", c.ref.Key())
	}
}

// destroy gives back everything a container has, also after a make that went
// half way. It can be repeated after an error.
func (c *container) destroy() error {
	c.reapHalfMade()
	if c.cgroup != nil {
		if err := killCgroup(c.cgroup); err != nil {
			return err
		}
	}
	c.mu.Lock()
	stdout, stderr, out, oom := c.stdout, c.stderr, c.out, c.oom
	c.closeStdin()
	c.mu.Unlock()
	stdout.stop()
	stderr.stop()
	if out != nil {
		out.close()
	}
	oom.close()
	if err := c.destroyState(); err != nil {
		return err
	}
	key := c.ref.Key()
	if err := removeAll(c.m.dumpLog(key), c.m.spool(key, "stdout"), c.m.spool(key, "stderr"), c.m.exit(key), c.m.container(key)); err != nil {
		return err
	}
	failpoint.Hit("keep/drop/before")
	c.m.keeper.drop(key)
	return nil
}

// reapHalfMade ends an init process that was made but not attached.
func (c *container) reapHalfMade() {
	c.mu.Lock()
	half := c.record.Status == "" && c.reap != nil
	c.mu.Unlock()
	if !half {
		return
	}
	_ = unix.Kill(c.record.Pid, unix.SIGKILL) // our own, not yet reaped child
	if _, err := c.reap(); err != nil {
		c.log.Warn("wait for a half-made init process", "err", err)
	}
	c.reap = nil
	if c.pidfd > 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
}

// destroyState removes the engine's state and the cgroup.
func (c *container) destroyState() error {
	if c.engine != nil {
		return c.engine.destroy()
	}
	if c.cgroup != nil {
		if err := c.cgroup.Destroy(); err != nil {
			return fmt.Errorf("remove the cgroup: %w", err)
		}
	}
	return os.RemoveAll(filepath.Join(c.m.state(), c.ref.Key()))
}

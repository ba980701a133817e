//go:build linux && cgo

package main

import (
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// initEnded is called by the loop when init's pidfd says that it has ended.
func (c *container) initEnded(uint32, []byte) {
	c.mu.Lock()
	c.m.loop.drop(c.pidfd, c.token)
	c.mu.Unlock()
	c.m.guard("finish a container", c.finish)
}

// finish turns the end of init into a fact. The order matters: ask how it ended;
// read the OOM counter while the cgroup is there; kill what a shared PID namespace
// leaves alive, so that the pipes end; take the last output; write the record; let
// the kernel and the keeper forget (before the record the next monitor could not
// know the end); tell.
func (c *container) finish() {
	status, at, err := c.wait()
	failpoint.Hit("exit", "seen")
	if err != nil {
		c.log.Error("how the init process ended cannot be known", "pid", c.record.Pid, "err", err)
	}
	oom := c.oom.killed(status.signal == int(unix.SIGKILL))
	if c.shared {
		if err := c.signalAll(unix.SIGKILL); err != nil {
			c.log.Error("processes of an ended container are left", "err", err)
		}
	}
	c.stdout.drain()
	c.stderr.drain()
	c.exitedAt(at, status, oom)
}

// exited records and tells how the container ended, once.
func (c *container) exited(status exitStatus, oom bool) {
	c.exitedAt(time.Now().UTC(), status, oom)
}

func (c *container) exitedAt(at time.Time, status exitStatus, oom bool) {
	c.mu.Lock()
	if !c.alive() {
		c.mu.Unlock()
		return
	}
	s := &c.record.State
	s.Status, s.ExitedAt = wire.Exited, at
	s.ExitCode, s.Signal, s.ExitUnknown = status.code, status.signal, status.unknown
	// A counter above zero may be a child's that the container survived.
	s.OOMKilled = oom && (status.unknown || status.code != 0)
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	c.closeStdin()
	c.oom.close()
	state, reap := c.stateLocked(), c.reap
	c.mu.Unlock()
	if err := writeJSON(c.m.exit(c.ref.Key()), state); err != nil {
		c.log.Error("the exit cannot be written down: it is lost if the monitor ends", "exitCode", state.ExitCode, "err", err)
	}
	failpoint.Hit("exit", "recorded")
	if reap != nil {
		if _, err := reap(); err != nil {
			c.log.Warn("the init process was not reaped by us", "pid", state.Pid, "err", err)
		}
	}
	failpoint.Hit("exit", "reaped")
	c.mu.Lock()
	c.tellLocked()
	c.mu.Unlock()
	c.log.Info("exited", "pid", state.Pid, "exitCode", state.ExitCode, "signal", state.Signal, "oomKilled", state.OOMKilled, "unknown", state.ExitUnknown)
	close(c.over)
	c.m.publish(state)
}

// guard runs f beside the caller; its panic costs one container's step, not
// the parent of all of them.
func (m *monitor) guard(what string, f func()) {
	go func() {
		defer caught(m.log, what)
		f()
	}()
}

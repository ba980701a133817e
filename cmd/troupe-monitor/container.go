//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// container is one container and its init process. Its status goes
//
//	"" ─create─► created ─start─► running ─exit─► exited ─delete─► out of the table
//	               └──────────────exit───────────────┘
//
// "" is one that is being made, or whose making failed and left something for
// Delete. An exit can come at any time.
type container struct {
	m   *monitor
	ref wire.Ref
	log *slog.Logger

	// op is held by the one life cycle step (create, start, delete) that runs;
	// a channel, so that waiting for it ends with the caller's context.
	op chan struct{}

	// Set by create or load, unchanged afterwards.
	engine engine // nil: its create did not get that far
	cgroup cgroups.Manager
	shared bool // has no PID namespace of its own: init's end leaves others alive
	over   chan struct{}

	mu     sync.Mutex
	record record
	pidfd  int // of init; valid while status is created or running
	token  uint64
	wait   func() (exitStatus, time.Time, error) // how init ended, and when; it stays a zombie
	reap   func() (exitStatus, error)            // nil: it is no child of ours
	out    *logFile
	stdout *stream
	stderr *stream
	stdin  *os.File // the writing end, when kept open
	oom    *oomWatch
	abort  context.CancelFunc // makes a create that hangs fail
}

// recordVersion changes when an older monitor would misunderstand a record.
const recordVersion = 1

// record is what is stored about a container, to find it after the monitor's
// own end.
type record struct {
	Version int `json:"version,omitempty"` // recordVersion; 0: before there was one
	wire.State
	Bundle     string `json:"bundle"`
	Pause      bool   `json:"pause,omitempty"`
	Born       uint64 `json:"born,omitempty"` // startTime of init
	LogPath    string `json:"logPath,omitempty"`
	StdinOnce  bool   `json:"stdinOnce,omitempty"`
	StdinDone  bool   `json:"stdinDone,omitempty"` // with StdinOnce: its first attach has ended
	TTY        bool   `json:"tty,omitempty"`
	StartError string `json:"startError,omitempty"` // what Start will answer: the engine found it early

	// Images is where CRIU's images are of a container that is restored by its
	// start; Stdin belongs to what is needed for that.
	Images string `json:"images,omitempty"`
	Stdin  bool   `json:"stdin,omitempty"`

	// Runtime is the OCI runtime that made it; nil: libcontainer. All that is
	// needed stands here, whatever the daemon's configuration has become.
	Runtime *wire.Runtime `json:"runtime,omitempty"`

	// Originals are what cgroup files held before the first update of theirs.
	Originals map[string]string `json:"originals,omitempty"`
}

// acquire gets the right to a life cycle step.
func (c *container) acquire(ctx context.Context) error {
	select {
	case c.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failf(wire.Canceled, "container %s: gave up waiting for the step before", c.ref.Key())
	}
}

func (c *container) release() { <-c.op }

// state is what can be said now; it waits for nothing but the mutex.
func (c *container) state() wire.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stateLocked()
}

func (c *container) stateLocked() wire.State {
	s := c.record.State
	s.Ref = c.ref
	if s.Status == "" {
		s.Status = wire.Gone
	}
	return s
}

func (c *container) alive() bool {
	return c.record.Status == wire.Created || c.record.Status == wire.Running
}

// start lets the user's command run.
func (c *container) start(ctx context.Context) (wire.State, error) {
	if err := c.acquire(ctx); err != nil {
		return wire.State{}, err
	}
	defer c.release()
	c.mu.Lock()
	status, startError := c.record.Status, c.record.StartError
	images := c.record.Images
	if status == wire.Created && startError == "" {
		c.record.StartedAt = time.Now().UTC()
	}
	c.mu.Unlock()
	switch {
	case status == wire.Running:
		return c.state(), nil
	case status == wire.Created && startError != "":
		c.exited(exitStatus{code: startFailed}, false)
		return wire.State{}, failf(wire.Internal, "%s", startError)
	case status != wire.Created:
		return wire.State{}, failf(wire.Precondition, "container %s cannot be started: it is %s", c.ref.Key(), c.state().Status)
	}
	if images != "" {
		return c.restore(ctx)
	}
	// Before it runs: if we die with the start, the next monitor must not take the
	// exit of a short command for that of an init that never came to it.
	if err := writeJSON(c.m.container(c.ref.Key()), c.copyRecord()); err != nil {
		c.log.Error("the start cannot be recorded; after an end of the monitor its time will be missing", "err", err)
	}
	// A start that was cut off may have had its effect.
	if err := c.engine.start(ctx); err != nil && c.engine.status() != wire.Running {
		c.mu.Lock()
		if c.record.Status == wire.Created {
			c.record.StartedAt = time.Time{}
		}
		c.mu.Unlock()
		return wire.State{}, failf(wire.Internal, "start container %s: %v", c.ref.Key(), err)
	}
	failpoint.Hit("start", "released")
	return c.nowRunning(), nil
}

// nowRunning takes down that the user's command runs. It is not written: who
// reads the record asks the engine.
func (c *container) nowRunning() wire.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record.Status == wire.Created { // it may have ended already
		c.record.Status = wire.Running
	}
	return c.stateLocked()
}

func (c *container) copyRecord() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

// abortable is ctx, which Delete can end too.
func (c *container) abortable(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, abort := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abort = abort
	return ctx, abort
}

// signal sends a signal to init, or to all processes of the container.
func (c *container) signal(sig unix.Signal, all bool) error {
	if c.waitsForRestore() {
		if sig == unix.SIGKILL { // there is no process yet: this is its end
			c.exited(exitStatus{code: 128 + int32(sig), signal: int(sig)}, false)
		}
		return nil
	}
	if all {
		return c.signalAll(sig)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.alive() || c.pidfd < 0 {
		return nil
	}
	if sig == unix.SIGKILL {
		c.oom.look() // what others suffered before is not what it dies of
	}
	err := unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return failf(wire.Internal, "send %v to process %d of container %s: %v", sig, c.record.Pid, c.ref.Key(), err)
	}
	return nil
}

func (c *container) reopenLog() error {
	c.mu.Lock()
	out, alive := c.out, c.alive()
	c.mu.Unlock()
	if !alive || out == nil {
		return failf(wire.Precondition, "container %s does not run: its log has no writer", c.ref.Key())
	}
	if err := out.reopen(); err != nil {
		kind := wire.Internal
		if errors.Is(err, unix.ENOSPC) {
			kind = wire.NoSpace
		}
		return failf(kind, "reopen the log of container %s: %v", c.ref.Key(), err)
	}
	return nil
}

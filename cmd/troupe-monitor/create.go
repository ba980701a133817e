//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// create makes a container's init process; a second one with the same
// arguments gives the same result.
func (m *monitor) create(ctx context.Context, r wire.Create) (wire.State, error) {
	if err := checkRef(r.Ref); err != nil {
		return wire.State{}, err
	}
	c, err := m.reserve(r.Ref)
	if err != nil {
		return wire.State{}, err
	}
	if err := c.acquire(ctx); err != nil {
		return wire.State{}, err
	}
	defer c.release()
	if s := c.state(); s.Status != wire.Gone {
		return s, nil
	}
	if m.find(r.Ref) != c {
		return wire.State{}, failf(wire.Canceled, "container %s was deleted while it was to be made", r.Key())
	}
	err = c.beginCreate()
	if err == nil {
		err = c.make(ctx, r)
	}
	if err != nil {
		kind := wire.Internal
		var said *wire.Error
		switch {
		case errors.As(err, &said):
			kind = said.Kind
		case errors.Is(err, unix.ENOSPC), strings.Contains(err.Error(), unix.ENOSPC.Error()): // init sends words only
			kind = wire.NoSpace
		case errors.Is(err, os.ErrNotExist) && c.engine == nil:
			kind = wire.Invalid
		case errors.Is(err, context.DeadlineExceeded):
			kind = wire.Deadline
		case errors.Is(err, context.Canceled):
			kind = wire.Canceled
		}
		if left := c.destroy(); left != nil {
			c.log.Error("what a failed create made is still there; Delete will take it back", "err", left)
		} else {
			m.remove(c)
		}
		return wire.State{}, failf(kind, "create container %s: %v", r.Key(), err)
	}
	return c.state(), nil
}

// beginCreate takes back what a create has made during which a monitor died.
func (c *container) beginCreate() error {
	if c.record.Bundle == "" {
		return nil
	}
	if err := c.destroy(); err != nil {
		return fmt.Errorf("take back what an earlier try has left: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine, c.cgroup, c.out, c.stdout, c.stderr, c.oom = nil, nil, nil, nil, nil, nil
	return nil
}

// make runs the steps of create. After an error destroy takes back whatever
// had been made.
func (c *container) make(ctx context.Context, r wire.Create) error {
	spec, err := c.m.readSpec(r)
	if err != nil {
		return err
	}
	cgroup, err := c.m.newCgroup(r, spec)
	if err != nil {
		return err
	}
	rec := record{
		Version: recordVersion,
		State:   wire.State{Ref: r.Ref}, Bundle: r.Bundle, Pause: r.Pause, LogPath: r.LogPath, StdinOnce: r.StdinOnce, TTY: r.TTY, Runtime: r.Runtime,
	}
	c.mu.Lock()
	c.record = rec
	c.shared = sharesPIDs(spec)
	c.cgroup = cgroup // from now on Delete can kill what is being made
	c.mu.Unlock()
	if r.Images != "" {
		rec.Images, rec.Stdin = r.Images, r.Stdin
		return c.keepForRestore(rec, spec)
	}
	// First the record: whatever is made from here on has a name to find it by.
	if err := writeJSON(c.m.container(r.Key()), rec); err != nil {
		return err
	}
	failpoint.Hit("create", "recorded")
	if c.engine, err = c.newEngine(r, spec); err != nil {
		return err
	}
	if c.out, err = c.openLog(r.LogPath); err != nil {
		return err
	}
	p, err := newProcess(spec.Process)
	if err != nil {
		return err
	}
	ends, err := openStdio(p, r)
	if err != nil {
		return err
	}
	defer ends.closeAll()
	ctx, abort := c.abortable(ctx)
	defer abort()
	err = c.engine.create(ctx, p)
	failpoint.Hit("create", "made")
	if err != nil && isStartError(err, spec.Process.Args) {
		return c.keepStartError(err)
	}
	if err != nil {
		return err
	}
	return c.attach(p, ends)
}

// attach connects the made process: its output, its OOM counter, its end.
func (c *container) attach(p *process, ends *stdio) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.Pid, c.record.Born = p.pid, startTime(p.pid)
	c.reap, c.wait = p.reap, func() (exitStatus, time.Time, error) {
		status, err := peek(p.pid)
		return status, time.Now().UTC(), err
	}
	var err error
	if c.pidfd, err = unix.PidfdOpen(c.record.Pid, 0); err != nil {
		return errors.Join(errors.New("pidfd of the new init process"), err)
	}
	c.mark()
	c.oom = watchOOM(c.m.loop, c.cgroup, c.log)
	if err := ends.connect(c); err != nil {
		return err
	}
	c.tellLocked()
	failpoint.Hit("keep/create/after")
	c.record.Status = wire.Created
	if err := writeJSON(c.m.container(c.ref.Key()), c.record); err != nil {
		c.record.Status = ""
		return err
	}
	if c.token, err = c.m.loop.add(c.pidfd, unix.EPOLLIN, c.initEnded); err != nil {
		c.record.Status = ""
		return err
	}
	return nil
}

// keepStartError makes a command that does not exist what it is in CRI: a
// container that could be created and cannot be started. There is no process;
// Start answers with the error.
func (c *container) keepStartError(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record.StartError = err.Error()
	c.record.Status = wire.Created
	c.pidfd = -1
	if err := writeJSON(c.m.container(c.ref.Key()), c.record); err != nil {
		c.record.Status = ""
		return err
	}
	return nil
}

// readSpec reads the bundle and makes its root absolute. For the pause process
// the root is ours: the bundle cannot know where it is.
func (m *monitor) readSpec(r wire.Create) (*specs.Spec, error) {
	var spec specs.Spec
	if err := readJSON(join(r.Bundle, "config.json"), &spec); err != nil {
		return nil, err
	}
	if spec.Process == nil || spec.Root == nil || spec.Linux == nil || len(spec.Process.Args) == 0 {
		return nil, errors.New("its config.json has no process, args, root or linux section")
	}
	if r.Pause {
		spec.Root.Path, spec.Root.Readonly = m.pauseRoot(), true
		spec.Process.Args, spec.Process.Cwd = []string{"/pause"}, "/"
	}
	spec.Root.Path = join(r.Bundle, spec.Root.Path)
	if spec.Process.OOMScoreAdj == nil {
		spec.Process.OOMScoreAdj = &m.oomScore // else it would inherit the monitor's -999
	}
	return &spec, nil
}

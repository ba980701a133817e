//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
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
	if err := c.make(r); err != nil {
		kind := wire.Internal
		if errors.Is(err, unix.ENOSPC) {
			kind = wire.NoSpace
		}
		if errors.Is(err, os.ErrNotExist) && c.lc == nil {
			kind = wire.Invalid
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

// make runs the steps of create. After an error destroy takes back whatever
// had been made.
func (c *container) make(r wire.Create) error {
	spec, err := c.m.readSpec(r)
	if err != nil {
		return err
	}
	config, err := c.m.libcontainerConfig(r, spec)
	if err != nil {
		return err
	}
	cgroup, err := manager.New(config.Cgroups)
	if err != nil {
		return err
	}
	rec := record{State: wire.State{Ref: r.Ref}, Bundle: r.Bundle, LogPath: r.LogPath, StdinOnce: r.StdinOnce}
	c.mu.Lock()
	c.record = rec
	c.shared = !config.Namespaces.IsPrivate(configs.NEWPID)
	c.cgroup = cgroup // from now on Delete can kill what is being made
	c.mu.Unlock()
	// First the record: whatever is made from here on has a name to find it by.
	if err := writeJSON(c.m.container(r.Key()), rec); err != nil {
		return err
	}
	if c.lc, err = libcontainer.Create(c.m.state(), r.Key(), config); err != nil {
		return err
	}
	if c.out, err = openLog(r.LogPath, c.log); err != nil {
		return err
	}
	process, err := newProcess(spec.Process)
	if err != nil {
		return err
	}
	process.Init = true
	ends, err := openStdio(process, r)
	if err != nil {
		return err
	}
	defer ends.closeAll()
	err = c.spawn(process)
	if err != nil && isStartError(err, spec.Process.Args) {
		return c.keepStartError(err)
	}
	if err != nil {
		return err
	}
	return c.attach(process, ends)
}

// spawn makes the init process. Its pid is entered as ours to wait for before
// the sweep for orphans may look again.
func (c *container) spawn(p *libcontainer.Process) error {
	defer c.giveProgram(p)() // before the gate: it may make a child itself
	done := c.m.children.forking()
	defer done()
	if err := c.lc.Start(p); err != nil {
		return err
	}
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = c.m.children.adopt(pid, p)
	c.record.Pid = pid
	return nil
}

// attach connects the made process: its output, its OOM counter, its end.
func (c *container) attach(p *libcontainer.Process, ends *stdio) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.pidfd, err = unix.PidfdOpen(c.record.Pid, 0); err != nil {
		return errors.Join(errors.New("pidfd of the new init process"), err)
	}
	c.oom = watchOOM(c.m.loop, c.cgroup, c.log)
	if err := ends.connect(c); err != nil {
		return err
	}
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

// isStartError tells whether libcontainer refused the command itself: runc
// looks it up already at create, as "exec: "name": …" (os/exec.LookPath).
func isStartError(err error, args []string) bool {
	return len(args) > 0 && strings.Contains(err.Error(), "exec: "+strconv.Quote(args[0])+": ")
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

// cgroupOf is the manager of a container that was made by an earlier monitor.
func cgroupOf(s *libcontainer.State) (cgroups.Manager, error) {
	return manager.NewWithPaths(s.Config.Cgroups, s.CgroupPaths)
}

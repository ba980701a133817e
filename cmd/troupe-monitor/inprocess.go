//go:build linux && cgo

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// inProcess is libcontainer, linked into the monitor.
type inProcess struct {
	c  *container
	lc *libcontainer.Container // nil: it is being restored

	unborn *configs.Config // what it is restored with

	// starting is held while a process is made and while limits are set: in
	// between, libcontainer's configuration is not one to start with.
	starting sync.Mutex
}

// newInProcess makes libcontainer's part of a container; its state file comes
// with the init process.
func newInProcess(c *container, r wire.Create, spec *specs.Spec) (engine, error) {
	config, err := c.m.libcontainerConfig(r, spec)
	if err != nil {
		return nil, err
	}
	config.Seccomp = c.m.profiles.same(config.Seccomp)
	lc, err := libcontainer.Create(c.m.state(), r.Key(), config)
	if err != nil {
		return nil, err
	}
	return &inProcess{c: c, lc: lc}, nil
}

func (e *inProcess) create(_ context.Context, p *process) error {
	p.Init = true
	config := e.lc.Config()
	return e.c.m.startIn(&config, func() error { return e.spawn(p) })
}

func (e *inProcess) exec(_ context.Context, p *process) error { return e.spawn(p) }

// spawn makes a process. Its pid is entered as ours to wait for before the
// sweep for orphans may look again.
func (e *inProcess) spawn(p *process) error {
	defer e.giveProgram(p)() // before the gate: it may make a child itself
	done := e.c.m.children.forking()
	defer done()
	e.starting.Lock()
	err := e.lc.Start(&p.Process)
	e.starting.Unlock()
	if err != nil {
		return err
	}
	pid, err := p.Process.Pid()
	if err != nil {
		return err
	}
	p.pid, p.reap = pid, e.c.m.children.adopt(pid, &p.Process)
	return nil
}

func (e *inProcess) start(ctx context.Context) error {
	return releaseFifo(ctx, e.c.m.fifo(e.c.ref.Key()), e.c.over)
}

// status asks libcontainer, which compares the process's start time.
func (e *inProcess) status() string {
	status, err := e.lc.Status()
	if err != nil {
		return wire.Exited
	}
	switch status {
	case libcontainer.Created:
		return wire.Created
	case libcontainer.Running, libcontainer.Paused:
		return wire.Running
	}
	return wire.Exited
}

// destroy removes libcontainer's state and the cgroup.
func (e *inProcess) destroy() error {
	if e.lc == nil { // there is no more than the cgroup and the directory
		if err := e.c.cgroup.Destroy(); err != nil {
			return fmt.Errorf("remove the cgroup: %w", err)
		}
		return os.RemoveAll(filepath.Join(e.c.m.state(), e.c.ref.Key()))
	}
	done := e.c.m.children.forking() // it runs the poststop hooks
	defer done()
	err := e.lc.Destroy()
	dir := filepath.Join(e.c.m.state(), e.c.ref.Key())
	if _, there := os.Lstat(dir); err != nil && os.IsNotExist(there) {
		e.c.log.Warn("a poststop hook failed", "err", err)
		return nil
	}
	return err
}

//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// children keeps apart who waits for which child. This process has four kinds:
//
//   - the init and exec processes: in known, reaped once, by the wait that adopt
//     gave, after their pidfd has become readable; and helpers of our own, in
//     known while run waits for them;
//   - helpers that libcontainer forks and waits for itself (the stages of an
//     init, hooks): alive or zombie only while somebody is between forking and
//     its done;
//   - processes that an OCI runtime makes and leaves to us when it ends: in
//     known from the moment we know their pid; until then, while a runtime runs
//     that will leave one (inherits), nothing is swept at all;
//   - orphans of containers without a PID namespace of their own, which come to
//     us because we are the subreaper, and what failed creates leave.
//
// So the rule is: whoever may fork is inside the gate, and has entered its pid
// in known when it leaves; the sweep reaps what is not in known, and only while
// it has the gate shut and nobody is inside. It cannot meet a child of
// libcontainer's then.
//
// Who is inside can hang: an init whose mount is on a dead network file system
// sleeps in the kernel, and libcontainer waits for it without end. So the gate is
// shut for a moment only (insist), or no container of the node could start
// until that server is back. Of what has been dead for long, libcontainer's
// helpers are told from orphans by their name then (stale).
type children struct {
	gate  gate
	mu    sync.Mutex
	known map[int]*child
	heirs int // how many runtimes run whose processes will be ours
}

type child struct{ pid int }

// exitStatus is how a process ended.
type exitStatus struct {
	code    int32 // 128+n for signal n
	signal  int
	unknown bool
}

// startFailed is the exit code of a container whose command could not be
// started, as containerd and docker have it.
const startFailed = 128

// forking says that the caller may make children until it calls done.
func (c *children) forking() (done func()) {
	c.gate.enter()
	return c.gate.leave
}

// adopt enters a process as ours and gives the function that reaps it.
func (c *children) adopt(pid int, p *libcontainer.Process) func() (exitStatus, error) {
	me := c.enter(pid)
	return func() (exitStatus, error) {
		defer c.leave(me)
		state, err := p.Wait() // also gives back what libcontainer holds for it
		if state == nil {
			return exitStatus{unknown: true}, err
		}
		return decode(state.Sys().(syscall.WaitStatus)), nil
	}
}

// run runs a helper of our own to its end. The gate is held only until its pid
// is known.
func (c *children) run(cmd *exec.Cmd) error {
	wait, err := c.start(cmd)
	if err != nil {
		return err
	}
	return wait()
}

// start starts one; the caller has to wait for it.
func (c *children) start(cmd *exec.Cmd) (wait func() error, err error) {
	defer c.forking()()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	me := c.enter(cmd.Process.Pid)
	return func() error {
		defer c.leave(me)
		return cmd.Wait()
	}, nil
}

// peek says how a child of ours ended that is not reaped yet.
func peek(pid int) (exitStatus, error) {
	// The part of siginfo_t that waitid(2) fills, on 64-bit machines.
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return exitStatus{unknown: true}, fmt.Errorf("how process %d ended: %w", pid, err)
		}
		break
	}
	const exited = 1 // CLD_EXITED; the others are signals
	value := *(*int32)(unsafe.Pointer(uintptr(unsafe.Pointer(&info)) + 24))
	if info.Code == exited {
		return exitStatus{code: value}, nil
	}
	return exitStatus{code: 128 + value, signal: int(value)}, nil
}

// inherits says that a process will come to us by its parent's end, until the
// caller knows its pid and calls done.
func (c *children) inherits() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heirs++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.heirs--
	}
}

// inherit enters such a process and gives the function that reaps it.
func (c *children) inherit(pid int) (func() (exitStatus, error), error) {
	me := c.enter(pid)
	if !isChild(pid) {
		c.leave(me)
		return nil, fmt.Errorf("process %d, which the runtime named, is no child of this process", pid)
	}
	return func() (exitStatus, error) {
		defer c.leave(me)
		for {
			var ws unix.WaitStatus
			_, err := unix.Wait4(pid, &ws, 0, nil)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return exitStatus{unknown: true}, fmt.Errorf("wait for process %d: %w", pid, err)
			default:
				return decode(syscall.WaitStatus(ws)), nil
			}
		}
	}, nil
}

func isChild(pid int) bool {
	var info unix.Siginfo
	return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

func (c *children) enter(pid int) *child {
	c.mu.Lock()
	defer c.mu.Unlock()
	me := &child{pid: pid}
	c.known[pid] = me
	return me
}

// leave comes after the reaping; the pid may be in use again by then.
func (c *children) leave(me *child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known[me.pid] == me {
		delete(c.known, me.pid)
	}
}

func decode(ws syscall.WaitStatus) exitStatus {
	if ws.Signaled() {
		return exitStatus{code: 128 + int32(ws.Signal()), signal: int(ws.Signal())}
	}
	return exitStatus{code: int32(ws.ExitStatus())}
}

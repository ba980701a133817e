//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// signalAll signals every process in the container's cgroup. SIGKILL goes on
// until the cgroup is empty, since a fork may have been under way.
func (c *container) signalAll(sig unix.Signal) error {
	c.mu.Lock()
	cg := c.cgroup
	c.mu.Unlock()
	if cg == nil {
		return nil
	}
	if sig == unix.SIGKILL {
		return killCgroup(cg)
	}
	pids, err := pidsOf(cg)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// killCgroup kills until nobody is left: at once with cgroup.kill (v2, kernel
// 5.14), else in rounds. A frozen v1 cgroup must be thawed for the signal to act.
// To end takes a process CPU time, which a starved or throttled one waits for.
func killCgroup(cg cgroups.Manager) error {
	if p := cg.Path(""); cgroups.IsCgroup2UnifiedMode() && p != "" {
		if os.WriteFile(filepath.Join(p, "cgroup.kill"), []byte("1"), 0) == nil {
			return nil
		}
	}
	pause := 5 * time.Millisecond
	for end := time.Now().Add(killWait); time.Now().Before(end); pause = min(pause*5/4, 100*time.Millisecond) {
		pids, err := pidsOf(cg)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if state, err := cg.GetFreezerState(); err == nil && state == cgroups.Frozen {
			if err := cg.Freeze(cgroups.Thawed); err != nil {
				return fmt.Errorf("thaw the cgroup of killed processes: %w", err)
			}
		}
		time.Sleep(pause)
	}
	pids, err := pidsOf(cg)
	if err != nil || len(pids) == 0 {
		return err
	}
	return fmt.Errorf("processes %v do not end after SIGKILL: they may hang in the kernel (see /proc/PID/stack)", pids)
}

// pidsOf are the processes of a cgroup and those below it; none when it has gone.
func pidsOf(cg cgroups.Manager) ([]int, error) {
	if cg == nil {
		return nil, nil
	}
	pids, err := cg.GetAllPids()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the processes of the cgroup: %w", err)
	}
	return pids, nil
}

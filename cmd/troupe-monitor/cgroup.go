//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
func killCgroup(cg cgroups.Manager) error {
	if p := cg.Path(""); cgroups.IsCgroup2UnifiedMode() && p != "" {
		if os.WriteFile(filepath.Join(p, "cgroup.kill"), []byte("1"), 0) == nil {
			return nil
		}
	}
	for range killRounds {
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
		time.Sleep(5 * time.Millisecond)
	}
	pids, err := pidsOf(cg)
	if err != nil || len(pids) == 0 {
		return err
	}
	return fmt.Errorf("processes %v do not end after SIGKILL: they may hang in the kernel (see /proc/PID/stack)", pids)
}

const killRounds = 200

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

// oomWatch knows whether the kernel's OOM killer took a process of the
// container. Its file is opened while the container is made. With cgroup v2
// it is also read at every change, because systemd may remove the scope of an
// ended container before anybody else looks; v1 has no such event that could
// be trusted (it comes before the kill), but its file is there until Delete.
type oomWatch struct {
	loop  *loop
	mu    sync.Mutex
	file  *os.File
	token uint64 // 0: not in the loop
	kills uint64
}

func watchOOM(l *loop, cg cgroups.Manager, log *slog.Logger) *oomWatch {
	name := filepath.Join(cg.Path("memory"), "memory.oom_control")
	if cgroups.IsCgroup2UnifiedMode() {
		name = filepath.Join(cg.Path(""), "memory.events")
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Warn("an OOM kill of this container will not be noticed", "file", name, "err", err)
		return nil
	}
	w := &oomWatch{loop: l, file: os.NewFile(uintptr(fd), name)}
	if cgroups.IsCgroup2UnifiedMode() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.token, err = l.add(fd, unix.EPOLLPRI, func(uint32, []byte) { w.killed() }); err != nil {
			log.Warn("OOM kills of this container are looked for at its end only", "err", err)
		}
	}
	return w
}

// killed says whether somebody was, and remembers it beyond the cgroup's end.
func (w *oomWatch) killed() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return w.kills > 0
	}
	buf := make([]byte, 1024)
	n, _ := w.file.ReadAt(buf, 0) // an error (the cgroup has gone) leaves what we know
	for _, line := range strings.Split(string(buf[:max(n, 0)]), "\n") {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			if kills, err := strconv.ParseUint(value, 10, 64); err == nil {
				w.kills = kills
			}
		}
	}
	return w.kills > 0
}

func (w *oomWatch) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return
	}
	if w.token != 0 {
		w.loop.drop(int(w.file.Fd()), w.token)
	}
	w.file.Close()
	w.file = nil
}

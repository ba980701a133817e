//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sweepOrphans reaps orphans for ever. It is in no hurry: a zombie costs a
// table entry, so it looks some time after a child has ended, waits for a
// moment without forks, and only after sweepPatience makes one.
func (m *monitor) sweepOrphans() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		began, pause := time.Now(), 50*time.Millisecond
		var old map[int]uint64 // zombies of the look before, while forks hang
		for {
			time.Sleep(pause)
			if firstZombie() == 0 {
				break
			}
			insist := time.Since(began) > sweepPatience
			if m.children.sweep(insist) {
				continue
			}
			pause = min(2*pause, time.Second)
			if insist {
				old = m.children.stale(old)
				pause = sweepPatience
			}
		}
	}
}

const (
	sweepPatience = 5 * time.Second
	// sweepHold is how long a sweep keeps new forks waiting for those under
	// way, which take a tenth of it on a busy machine.
	sweepHold = 300 * time.Millisecond
)

// sweep reaps orphans until there is none or one of ours comes first, and says
// whether it has reaped all.
func (c *children) sweep(insist bool) bool {
	hold := time.Duration(0)
	if insist {
		hold = sweepHold
	}
	if !c.gate.shut(hold) {
		return false
	}
	defer c.gate.open()
	for {
		pid := firstZombie()
		if pid == 0 {
			return true
		}
		if c.isOurs(pid) || !reap(pid) { // its own wait is about to come, or may be
			return false
		}
	}
}

// isOurs says that somebody waits for the child, or may be about to.
func (c *children) isOurs(pid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[pid] != nil || c.heirs > 0
}

func reap(pid int) bool {
	var ws unix.WaitStatus
	_, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
	return err == nil || errors.Is(err, unix.EINTR)
}

// stale reaps orphans while somebody inside the gate hangs. It takes the zombies
// it gave last time (by pid, with their birth) and gives those of now. What
// has been one since then is not about to be waited for, unless it is a stage
// of an init that hangs, which has libcontainer's name.
func (c *children) stale(before map[int]uint64) map[int]uint64 {
	now := map[int]uint64{}
	for _, pid := range zombies() {
		name, born := nameAndBirth(pid)
		switch {
		case c.isOurs(pid) || strings.HasPrefix(name, "runc:["):
		case born != 0 && before[pid] == born:
			reap(pid)
		default:
			now[pid] = born
		}
	}
	return now
}

// zombies are the children of this process that wait to be reaped.
func zombies() []int {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range threads {
		text, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue // the thread has ended; its children are another's by now
		}
		for field := range strings.FieldsSeq(string(text)) {
			var info unix.Siginfo
			pid, err := strconv.Atoi(field)
			if err == nil && unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil && info.Signo != 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// nameAndBirth are the command's name and start of a process, which a zombie
// has too; the start is 0 when there is no such process.
func nameAndBirth(pid int) (name string, born uint64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	open, end := strings.IndexByte(string(data), '('), strings.LastIndexByte(string(data), ')')
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 {
		return "", 0
	}
	born, _ = strconv.ParseUint(fields[19], 10, 64)
	return string(data[open+1 : end]), born
}

// firstZombie is the pid of a child that waits to be reaped, or 0.
func firstZombie() int {
	// The part of siginfo_t that waitid(2) fills, on 64-bit machines.
	var info struct {
		unix.Siginfo
	}
	err := unix.Waitid(unix.P_ALL, 0, &info.Siginfo, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil {
		return 0
	}
	return int(*(*int32)(unsafe.Pointer(uintptr(unsafe.Pointer(&info.Siginfo)) + 16)))
}

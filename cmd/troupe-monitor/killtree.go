//go:build linux && cgo

package main

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killTree kills an exec'd process and what came of it: its children and
// theirs, and everything of its session (an exec'd process has one of its own),
// which finds those whose parent has ended. Only processes of the container's cgroup
// are looked at. They are looked for before anybody is killed, because the
// children of the dead have another parent, and again for what was forked
// meanwhile.
func (c *container) killTree(root int) {
	found := map[int]bool{root: true}
	session := c.sessionOf(root)
	for range 2 {
		pids, err := pidsOf(c.cgroup)
		if err != nil {
			c.log.Warn("descendants of a timed-out exec may be left", "err", err)
		}
		descendants(session, found, pids)
		for pid := range found {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// The root is not reaped yet, so its pid is still its own. The others
		// may be gone, and are not to be signalled by number again.
		clear(found)
		found[root] = true
	}
}

// sessionOf is the session that an exec'd process does not share with the rest
// of the container. libcontainer's leads it itself; crun's was put into it by a
// process that has ended. 0: it has none of its own.
func (c *container) sessionOf(root int) int {
	_, session, ok := parentAndSession(root)
	_, initial, _ := parentAndSession(c.record.Pid)
	own, err := unix.Getsid(0)
	if !ok || session == initial || err != nil || session == own {
		return 0
	}
	return session
}

// descendants adds to found those of pids that descend from who is in it, or
// are of the session.
func descendants(session int, found map[int]bool, pids []int) {
	parent := map[int]int{}
	for _, pid := range pids {
		ppid, its, ok := parentAndSession(pid)
		if ok {
			parent[pid] = ppid
			if session != 0 && its == session {
				found[pid] = true
			}
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, ppid := range parent {
			if found[ppid] && !found[pid] {
				found[pid], grown = true, true
			}
		}
	}
}

// parentAndSession reads /proc/PID/stat (proc(5)); the command name before
// them may contain spaces and parentheses.
func parentAndSession(pid int) (ppid, session int, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 4 {
		return 0, 0, false
	}
	ppid, err1 := strconv.Atoi(fields[1])
	session, err2 := strconv.Atoi(fields[3])
	return ppid, session, err1 == nil && err2 == nil
}

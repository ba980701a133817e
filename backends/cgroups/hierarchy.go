package cgroups

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup tree: the only one on v2, one for each
// controller on v1.
type hierarchy struct {
	mount string
	v2    bool
	// foreign: nothing is made there (systemd's own tree on v1, the v2 tree
	// beside v1 ones), but a container runtime may have, so it is cleaned.
	foreign bool
}

// mounted finds the hierarchies of this mount namespace.
func mounted() ([]hierarchy, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	var found []hierarchy
	seen := map[int]bool{}
	hybrid := false
	for _, m := range mounts {
		if seen[m.Minor] {
			continue // the same tree mounted twice
		}
		seen[m.Minor] = true
		h := hierarchy{mount: m.Mountpoint, v2: m.FSType == "cgroup2", foreign: strings.Contains(m.VFSOptions, "name=")}
		hybrid = hybrid || !h.v2
		found = append(found, h)
	}
	for i := range found {
		found[i].foreign = found[i].foreign || (found[i].v2 && hybrid)
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return found, nil
}

const (
	// removeLimit bounds Remove when its caller has set no deadline.
	removeLimit = 30 * time.Second
	// patience is between two looks at whether killed processes have gone.
	patience = 5 * time.Millisecond
)

// remove removes a cgroup and those below it, killing what is in the way: the
// kernel refuses to remove a cgroup with processes, and after a kill they need
// a moment to go.
func (h hierarchy) remove(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	for {
		err := removeTree(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		if killErr := h.kill(dir); killErr != nil {
			return killErr
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: its processes do not die: %w", err, ctx.Err())
		case <-time.After(patience):
		}
	}
}

// removeTree removes the directories bottom-up; the files in them are the
// kernel's and go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// kill sends SIGKILL to everything below dir. cgroup.kill (v2, Linux 5.14) also
// catches what forks meanwhile; elsewhere the caller's loop does.
func (h hierarchy) kill(dir string) error {
	if h.v2 {
		if err := notOurselves(dir); err != nil {
			return err
		}
		if done, err := write(filepath.Join(dir, "cgroup.kill"), "1"); done || err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while walking
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		}
		if err := killMembers(path); err != nil {
			return err
		}
		// Frozen processes die only once thawed. v1: state file of the
		// freezer; v2 kills frozen ones too.
		_, err = write(filepath.Join(path, "freezer.state"), "THAWED")
		return err
	})
}

// notOurselves refuses a tree that the daemon is in: cgroup.kill would spare
// nobody.
func notOurselves(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while walking
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		}
		pids, err := members(path)
		if err == nil && slices.Contains(pids, os.Getpid()) {
			err = daemonInside(path)
		}
		return err
	})
}

func daemonInside(dir string) error {
	return fmt.Errorf("the daemon itself is in %s, the cgroup of a pod: start it elsewhere", dir)
}

// write sets a file of a cgroup; a kernel or hierarchy that has none of that
// name is told by done.
func write(path, value string) (done bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, unix.ENODEV) {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("write %q to %s: %w", value, path, err)
	}
	return true, nil
}

// killMembers takes a handle of every member, looks again who is a member, and
// only then kills: a pid that was reused meanwhile is not in the second list.
func killMembers(dir string) error {
	handles := map[int]int{}
	defer func() {
		for _, fd := range handles {
			_ = unix.Close(fd)
		}
	}()
	pids, err := members(dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			handles[pid] = fd
		}
	}
	if pids, err = members(dir); err != nil {
		return err
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			return daemonInside(dir)
		}
		if fd, known := handles[pid]; known {
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d in %s: %w", pid, dir, err)
			}
		}
	}
	return nil
}

func members(dir string) ([]int, error) {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil, nil // removed meanwhile
		}
		return nil, fmt.Errorf("read members of cgroup: %w", err)
	}
	var pids []int
	for _, field := range bytes.Fields(content) {
		// 0 is a process of a pid namespace that is not below ours.
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

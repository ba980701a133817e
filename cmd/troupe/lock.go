package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockDirs takes both directories for this daemon alone until it ends: two
// daemons on one journal, or on one set of namespaces, would sweep each
// other's pods. The kernel gives the locks back however the process dies.
func lockDirs(root, run string) (unlock func(), err error) {
	unlockRoot, err := lockDir(root, "root")
	if err != nil || filepath.Clean(root) == filepath.Clean(run) {
		return unlockRoot, err
	}
	unlockRun, err := lockDir(run, "run")
	if err != nil {
		unlockRoot()
		return nil, err
	}
	return func() { unlockRun(); unlockRoot() }, nil
}

func lockDir(dir, option string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w; set %s in [troupe] to a directory that can be made, and run as root", err, option)
	}
	path := filepath.Join(dir, "troupe.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w; run as root, or set %s in [troupe]", err, option)
	}
	if err := takeLock(f); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another troupe (pid %s) already uses %s; stop that one, or give this one its own root and run in [troupe]", owner(f), dir)
		}
		return nil, fmt.Errorf("lock %s: %w; put %s on a local file system", path, err, option)
	}
	// The pid is for people; the lock itself is the kernel's.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return func() { _ = f.Close() }, nil
}

// lockPatience is how long a lock may outlive its owner.
const lockPatience = 5 * time.Second

// takeLock takes the lock, or waits a little for one whose owner has gone: a
// daemon that is killed while it starts a plugin leaves a child that holds the
// file until it is the plugin.
func takeLock(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || owner(f) != "" && lives(owner(f)) || time.Now().After(end) {
			return err
		}
	}
}

// lives says whether there is such a process that has not ended.
func lives(pid string) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// owner is the process that wrote itself down last.
func owner(f *os.File) (pid string) {
	var text [20]byte
	n, _ := f.ReadAt(text[:], 0)
	return strings.TrimSpace(string(text[:n]))
}

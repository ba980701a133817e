package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTwoDaemonsCannotShareADirectory(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	unlock, err := lockDirs(root, run)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = lockDirs(t.TempDir(), run)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another troupe (pid %d)", os.Getpid())) {
		t.Errorf("the second daemon got: %v", err)
	}
	if time.Since(began) > lockPatience/2 {
		t.Error("it waited although the owner lives")
	}
	unlock()
	unlock, err = lockDirs(root, run)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	unlock()
}

// A daemon that was killed amid starting a plugin leaves a child that still
// holds the lock for a moment: the next daemon waits for that.
func TestALockThatOutlivesItsOwnerIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "troupe.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, ended.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = f.Close() }) // gives the lock back
	unlock, err := lockDir(dir, "root")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

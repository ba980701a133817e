//go:build linux && cgo

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run runs the runtime to its end with the stdio of p, which the process it
// makes inherits; nil: none.
func (e *external) run(ctx context.Context, p *process, args ...string) error {
	return e.command(ctx, args, func(cmd *exec.Cmd) {
		if p != nil {
			cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
		}
	})
}

// output runs the runtime and gives what it prints.
func (e *external) output(ctx context.Context, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := e.command(ctx, args, func(cmd *exec.Cmd) { cmd.Stdout = &out })
	return out.Bytes(), err
}

// command runs the runtime with a log file of its own, whose errors become ours.
// When ctx ends, it is killed with whatever it has in the container's cgroup;
// what it was just making elsewhere ends by itself, since it has no parent to
// talk to.
func (e *external) command(ctx context.Context, args []string, with func(*exec.Cmd)) error {
	log, err := e.temporary("log-*")
	if err != nil {
		return fmt.Errorf("a log for %s: %w", e.rt.Path, err)
	}
	defer os.Remove(log)
	global := []string{"--root", e.rt.Root, "--log", log, "--log-format", "json"}
	if e.systemd {
		global = append(global, "--systemd-cgroup")
	}
	argv := append(append([]string{e.rt.Path}, global...), args...)
	if e.rt.Kind == "crun" && hybridCgroups() {
		argv = append([]string{"/proc/self/exe", withoutUnified}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = e.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	// A runtime that outlived us would make a container that nobody knows. The
	// signal comes with the end of the thread that made it (prctl(2)), so that
	// thread is kept until the runtime has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // a hook may hold what output reads
	cmd.Cancel = func() error {
		e.c.killTree(cmd.Process.Pid)
		return nil
	}
	with(cmd)
	err = e.c.m.children.run(cmd)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s was ended: %w", e.rt.Path, args[0], context.Cause(ctx))
	}
	if said := lastError(log); said != "" {
		return fmt.Errorf("%s %s: %s", e.rt.Path, args[0], said)
	}
	return fmt.Errorf("%s %s: %w; it says no more", e.rt.Path, args[0], err)
}

// lastError is the last error in a runtime's log (JSON lines with level and
// msg), or the last line when there is none of that form.
func lastError(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	last, found := "", ""
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var entry struct{ Level, Msg string }
		if line := strings.TrimSpace(lines.Text()); line != "" {
			last = line
			if json.Unmarshal([]byte(line), &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
				found = strings.TrimSpace(entry.Msg)
			}
		}
	}
	if found != "" {
		return found
	}
	return last
}

const (
	// withoutUnified makes a process of this binary become another program,
	// which finds no cgroup v2 beside v1.
	withoutUnified = "without-unified-cgroup"
	cgroupRoot     = "/sys/fs/cgroup"
	unifiedRoot    = cgroupRoot + "/unified"
)

// hybridCgroups says whether there is a v2 hierarchy beside v1 ones, as systemd
// calls it. crun takes such a machine for one of neither kind and refuses it.
func hybridCgroups() bool {
	var root, unified unix.Statfs_t
	return unix.Statfs(cgroupRoot, &root) == nil && root.Type != unix.CGROUP2_SUPER_MAGIC &&
		unix.Statfs(unifiedRoot, &unified) == nil && unified.Type == unix.CGROUP2_SUPER_MAGIC
}

// runWithoutUnified is the main function of that process. Its mount namespace
// is a copy of ours in which all mounts stay peers of ours, since containers
// inherit their propagation from it; only the mount that the v2 hierarchy lies
// on is made private, so that the unmount is not passed on.
func runWithoutUnified(argv []string) int {
	err := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a mount namespace: %w", err)
		}
		if err := unix.Mount("", cgroupRoot, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", cgroupRoot, err)
		}
		if err := unix.Unmount(unifiedRoot, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", unifiedRoot, err)
		}
		err := syscall.Exec(argv[0], argv, os.Environ())
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s does not exist", argv[0])
		}
		return fmt.Errorf("run %s: %w", argv[0], err)
	}()
	fmt.Fprintln(os.Stderr, "hide the cgroup v2 hierarchy:", err)
	return 127
}

//go:build linux && cgo

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// dumpCommand makes a process of this binary that has libcontainer run CRIU: a
// process of its own, because libcontainer's call cannot be ended, and a dump
// of gigabytes takes its time.
const dumpCommand = "dump-container"

// dumpLog is where CRIU's log of the last dump that failed is kept.
func (p paths) dumpLog(key string) string { return filepath.Join(p.dir, "criu", key+".log") }

// dump captures a container's processes.
func (m *monitor) dump(ctx context.Context, r wire.Dump) error {
	c, err := m.mustFind(r.Ref)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(r.Dir) {
		return failf(wire.Invalid, "checkpoint container %s: %q is no absolute directory", r.Key(), r.Dir)
	}
	if _, err := exec.LookPath("criu"); err != nil {
		return failf(wire.Precondition, "checkpoint container %s: criu is not installed on this node (it is not in PATH=%s): install the package criu", r.Key(), os.Getenv("PATH"))
	}
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if s := c.state().Status; s != wire.Running {
		return failf(wire.Precondition, "checkpoint container %s: it is %s, not running", r.Key(), s)
	}
	images := filepath.Join(r.Dir, "checkpoint")
	if err := os.MkdirAll(images, 0o700); err != nil {
		return failf(wire.Internal, "checkpoint container %s: %v", r.Key(), err)
	}
	err = c.engine.dump(ctx, images, r.Dir)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return failf(wire.Canceled, "checkpoint container %s: ended before criu was done", r.Key())
	}
	return failf(wire.Precondition, "checkpoint container %s: criu cannot capture it here: %s (%v)", r.Key(), c.whyNoDump(ctx, r.Dir), err)
}

// whyNoDump is the last error of CRIU's log, which is kept; when CRIU did not
// come to write one, of its own check of this kernel.
func (c *container) whyNoDump(ctx context.Context, work string) string {
	kept := c.m.dumpLog(c.ref.Key())
	data, err := os.ReadFile(filepath.Join(work, "dump.log"))
	if err != nil || len(data) == 0 {
		check := exec.CommandContext(ctx, "criu", "check")
		var out bytes.Buffer
		check.Stdout, check.Stderr = &out, &out
		if err := c.m.children.run(check); err == nil {
			return "criu check finds nothing wrong, and it left no log"
		}
		data = out.Bytes()
	}
	where := "see " + kept
	if err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o700), os.WriteFile(kept, data, 0o600)); err != nil {
		where = "its log could not be kept: " + err.Error()
	}
	return fmt.Sprintf("%q; %s", lastLine(string(data), "Error"), where)
}

// lastLine is the last line with the word, or the last line at all.
func lastLine(text, word string) string {
	last, found := "", ""
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		last = line
		if strings.Contains(line, word) {
			found = line
		}
	}
	if found != "" {
		return found
	}
	return last
}

func (e *inProcess) dump(ctx context.Context, images, work string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", dumpCommand, e.c.m.state(), e.c.ref.Key(), images, work)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // criu with it
	err := e.c.m.children.run(cmd)
	if line := lastLine(said.String(), "dump: "); err != nil && line != "" {
		return errors.New(line)
	}
	return err
}

// runDump is the main function of that process.
func runDump(state, id, images, work string) int {
	lc, err := libcontainer.Load(state, id)
	if err == nil {
		err = lc.Checkpoint(&libcontainer.CriuOpts{
			ImagesDirectory: images, WorkDirectory: work, LeaveRunning: true,
			FileLocks: true, TcpEstablished: true, ManageCgroupsMode: "soft",
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dump:", err)
		return 1
	}
	return 0
}

func (e *external) dump(ctx context.Context, images, work string) error {
	return e.run(ctx, nil, "checkpoint", "--image-path", images, "--work-path", work,
		"--leave-running", "--file-locks", "--tcp-established", "--manage-cgroups-mode", "soft", e.id())
}

//go:build linux && cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// restoreCommand makes a process of this binary that has libcontainer run CRIU:
// as for a dump, because the call cannot be ended; and in a mount namespace of
// its own, because libcontainer mounts the root and the volumes for CRIU, and
// nothing of that may be left when it is killed.
const restoreCommand = "restore-container"

// restoration is what that process is told.
type restoration struct {
	State  string          `json:"state"`
	ID     string          `json:"id"`
	Images string          `json:"images"`
	Work   string          `json:"work"`
	LSM    string          `json:"lsm,omitempty"`
	TTY    bool            `json:"tty,omitempty"`
	Config *configs.Config `json:"config"`
}

// restoredPid is the file in which it says which process it has made.
const restoredPid = "restored.pid"

// keepForRestore makes a container that has no process: Start restores it. What
// can be found wrong without doing it is found here.
func (c *container) keepForRestore(rec record, spec *specs.Spec) error {
	if err := writeJSON(c.m.container(c.ref.Key()), rec); err != nil {
		return err
	}
	if _, err := exec.LookPath("criu"); err != nil {
		return failf(wire.Precondition, "criu is not installed on this node (it is not in PATH=%s): install the package criu", os.Getenv("PATH"))
	}
	if err := c.m.confined(filepath.Join(rec.Images, "checkpoint"), spec); err != nil {
		return failf(wire.Precondition, "the checkpoint does not fit the container: %v", err)
	}
	if err := namedForCRIU(spec); err != nil {
		return failf(wire.Precondition, "the container cannot be restored: %v", err)
	}
	var err error
	if c.out, err = c.openLog(rec.LogPath); err != nil {
		return err
	}
	rec.Status = wire.Created
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record, c.pidfd = rec, -1
	if err := writeJSON(c.m.container(c.ref.Key()), rec); err != nil {
		c.record.Status = ""
		return err
	}
	return nil
}

// waitsForRestore says whether Start has yet to make the processes.
func (c *container) waitsForRestore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record.Images != "" && c.record.Status == wire.Created && c.pidfd < 0
}

// restore is Start for such a container; its caller has acquired it. What fails
// ends the container: its processes may have run for a moment.
func (c *container) restore(ctx context.Context) (wire.State, error) {
	if err := c.makeRestored(ctx); err != nil {
		if left := c.giveUpRestore(); left != nil {
			c.log.Error("what a failed restore made is still there; Delete will take it back", "err", left)
		}
		c.mu.Lock()
		c.record.StartedAt = time.Time{}
		c.mu.Unlock()
		c.exited(exitStatus{code: startFailed}, false)
		return wire.State{}, failf(wire.Precondition, "start container %s: criu cannot restore it here: %v", c.ref.Key(), err)
	}
	state := c.nowRunning()
	// A restored process that has ended must not be restored again.
	if err := writeJSON(c.m.container(c.ref.Key()), c.copyRecord()); err != nil {
		c.log.Error("the start cannot be recorded; if the monitor ends, what has ended may be restored once more", "err", err)
	}
	return state, nil
}

func (c *container) makeRestored(ctx context.Context) error {
	rec := c.copyRecord()
	r := wire.Create{
		Ref: c.ref, Bundle: rec.Bundle, LogPath: rec.LogPath, Stdin: rec.Stdin, StdinOnce: rec.StdinOnce, TTY: rec.TTY, Runtime: rec.Runtime,
	}
	spec, err := c.m.readSpec(r) // anew: its limits may have been changed
	if err != nil {
		return err
	}
	if err := c.beginAnew(r, spec); err != nil {
		return err
	}
	if c.engine, err = c.engineToRestore(r, spec); err != nil {
		return err
	}
	p, err := newProcess(spec.Process)
	if err != nil {
		return err
	}
	ends, err := openStdio(p, r)
	if err != nil {
		return err
	}
	defer ends.closeAll()
	if c.out == nil { // an earlier monitor had it
		if c.out, err = c.openLog(rec.LogPath); err != nil {
			return err
		}
	}
	ctx, abort := c.abortable(ctx)
	defer abort()
	name, err := hostnameOf(spec)
	if err != nil {
		return err
	}
	err = errors.Join(c.engine.restore(ctx, p, filepath.Join(rec.Images, "checkpoint"), rec.Images), name.set())
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("it was ended before criu was done")
		}
		return fmt.Errorf("%s (%w)", c.whyNoRestore(rec.Images), err)
	}
	if err := c.attach(p, ends); err != nil {
		_ = unix.Kill(p.pid, unix.SIGKILL) // ours, and not reaped yet
		_, reaped := p.reap()
		return errors.Join(err, reaped)
	}
	return nil
}

// beginAnew removes what an earlier monitor may have half restored. A cgroup
// manager for v1 knows no paths any more once it has removed them, so there is
// a new one afterwards.
func (c *container) beginAnew(r wire.Create, spec *specs.Spec) error {
	if err := c.giveUpRestore(); err != nil {
		return err
	}
	cgroup, err := c.m.newCgroup(r, spec)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.cgroup = cgroup
	}
	return err
}

// giveUpRestore removes what a restore has made that did not come to its end.
func (c *container) giveUpRestore() error {
	if c.cgroup != nil {
		if err := killCgroup(c.cgroup); err != nil {
			return err
		}
	}
	err := c.destroyState()
	c.engine = nil
	return err
}

// whyNoRestore is the last error of CRIU's log, which is kept.
func (c *container) whyNoRestore(work string) string {
	data, err := os.ReadFile(filepath.Join(work, "restore.log"))
	if err != nil || len(data) == 0 {
		return "it left no log; see what \"criu check\" says"
	}
	kept := c.m.dumpLog(c.ref.Key())
	where := "see " + kept
	if err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o700), os.WriteFile(kept, data, 0o600)); err != nil {
		where = "its log could not be kept: " + err.Error()
	}
	return fmt.Sprintf("%q; %s", lastLine(string(data), "Error"), where)
}

// engineToRestore is newEngine without what only a create needs: libcontainer's
// state is made by the process that restores.
func (c *container) engineToRestore(r wire.Create, spec *specs.Spec) (engine, error) {
	if r.Runtime != nil {
		return newExternal(c, r, spec)
	}
	config, err := c.m.libcontainerConfig(r, spec)
	if err != nil {
		return nil, err
	}
	return &inProcess{c: c, unborn: config}, nil
}

// restore runs that process, whose child becomes ours by its end.
func (e *inProcess) restore(ctx context.Context, p *process, images, work string) error {
	task := restoration{State: e.c.m.state(), ID: e.c.ref.Key(), Images: images, Work: work, TTY: p.ConsoleSocket != nil, Config: e.unborn}
	if p.AppArmorProfile != "" {
		task.LSM = "apparmor:" + p.AppArmorProfile
	}
	file := filepath.Join(work, "task.json")
	if err := writeJSON(file, task); err != nil {
		return err
	}
	said, err := os.CreateTemp(work, "said-*")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", restoreCommand, file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	cmd.ExtraFiles = []*os.File{said}
	if task.TTY {
		cmd.ExtraFiles = append(cmd.ExtraFiles, p.ConsoleSocket)
	}
	// See external.command for the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error {
		return errors.Join(unix.Kill(-cmd.Process.Pid, unix.SIGKILL), killCgroup(e.c.cgroup))
	}
	done := e.c.m.children.inherits()
	defer done()
	if err := e.c.m.children.run(cmd); err != nil {
		words, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(bytes.TrimSpace(words))))
	}
	data, err := os.ReadFile(filepath.Join(work, restoredPid))
	if err != nil {
		return err
	}
	if p.pid, err = strconv.Atoi(string(data)); err != nil || p.pid <= 1 {
		return fmt.Errorf("the restored process is %q, which is no pid", data)
	}
	if p.reap, err = e.c.m.children.inherit(p.pid); err != nil {
		return err
	}
	e.lc, err = libcontainer.Load(e.c.m.state(), e.c.ref.Key())
	return err
}

// runRestore is the main function of that process.
func runRestore(file string) int {
	said := os.NewFile(3, "said")
	if err := restoreTask(file); err != nil {
		fmt.Fprintln(said, err)
		return 1
	}
	return 0
}

func restoreTask(file string) error {
	unix.CloseOnExec(3)
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var task restoration
	if err := json.Unmarshal(data, &task); err != nil {
		return err
	}
	// What is mounted here stays here; what the node mounts later still comes.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("a mount namespace for criu: %w", err)
	}
	p := &libcontainer.Process{Init: true, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if task.TTY {
		unix.CloseOnExec(4)
		p.ConsoleSocket = os.NewFile(4, "console")
		p.Stdin, p.Stdout, p.Stderr = nil, nil, nil
	}
	lc, err := libcontainer.Create(task.State, task.ID, task.Config)
	if err != nil {
		return err
	}
	if err := lc.Restore(p, &libcontainer.CriuOpts{
		ImagesDirectory: task.Images, WorkDirectory: task.Work, LsmProfile: task.LSM,
		FileLocks: true, TcpEstablished: true, ManageCgroupsMode: "soft",
	}); err != nil {
		return err
	}
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(task.Work, restoredPid), []byte(strconv.Itoa(pid)), 0o600)
}

func (e *external) restore(ctx context.Context, p *process, images, work string) error {
	return e.spawn(ctx, p, "restore", "--bundle", e.dir, "--image-path", images, "--work-path", work,
		"--detach", "--file-locks", "--tcp-established", "--manage-cgroups-mode", "soft")
}

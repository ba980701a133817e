//go:build linux && cgo

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// external is an OCI runtime, run by its command line (runtime-spec, runtime.md,
// and what runc, crun and youki have in common beyond it). The runtime is a
// short-lived child of ours; the processes it makes become ours when it ends,
// because we are the subreaper.
type external struct {
	c   *container
	rt  wire.Runtime
	dir string // its bundle and what passes between us: config.json, pid files, logs, sockets

	systemd bool
}

// specVersion is what a bundle says it is. Runtimes refuse versions that are
// later than their own (Debian 12's crun: all but 1.0.x), although fields that
// they do not know are to be ignored (runtime-spec, config.md, Extensibility).
const specVersion = "1.0.2"

// How long the steps of a runtime may take that only we wait for.
const (
	stateLimit  = 10 * time.Second
	deleteLimit = 30 * time.Second
)

// newExternal writes the bundle that the runtime reads: the daemon's, with what
// the monitor alone knows.
func newExternal(c *container, r wire.Create, spec *specs.Spec) (engine, error) {
	e := loadExternal(c)
	e.systemd = c.m.bySystemd(spec.Linux.CgroupsPath)
	spec.Version, spec.Process.Terminal = specVersion, r.TTY
	for i, mount := range spec.Mounts { // relative to the daemon's bundle, not to ours
		if mount.Type == "bind" || hasOption(mount.Options, "bind", "rbind") {
			spec.Mounts[i].Source = join(r.Bundle, mount.Source)
		}
	}
	if err := e.giveProgram(spec); err != nil {
		c.log.Warn("no ready seccomp program: the runtime compiles the profile itself, which takes longer", "err", err)
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(e.rt.Root, 0o700); err != nil {
		return nil, fmt.Errorf("the root of the runtime handler %s: %w", e.rt.Name, err)
	}
	return e, writeJSON(filepath.Join(e.dir, "config.json"), spec)
}

// loadExternal is the engine of a container that has its record.
func loadExternal(c *container) *external {
	e := &external{c: c, rt: *c.record.Runtime, dir: filepath.Join(c.m.work(), c.ref.Key())}
	if e.rt.Root == "" {
		e.rt.Root = filepath.Join(c.m.dir, "runtimes", e.rt.Name)
	}
	var spec specs.Spec
	if readJSON(filepath.Join(e.dir, "config.json"), &spec) == nil && spec.Linux != nil {
		e.systemd = c.m.bySystemd(spec.Linux.CgroupsPath)
	}
	return e
}

func (e *external) id() string { return e.c.ref.Key() }

func (e *external) create(ctx context.Context, p *process) error {
	ctx, cancel := withLimit(ctx, e.rt.CreateTimeout, "container_create_timeout of handler "+e.rt.Name)
	defer cancel()
	return e.spawn(ctx, p, "create", "--bundle", e.dir)
}

func (e *external) exec(ctx context.Context, p *process) error {
	file, err := e.temporary("exec-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(file)
	p.spec.Terminal = p.ConsoleSocket != nil
	if err := writeJSON(file, p.spec); err != nil {
		return err
	}
	return e.spawn(ctx, p, "exec", "--process", file, "--detach")
}

// spawn runs the runtime, which makes p and ends, and takes p over.
func (e *external) spawn(ctx context.Context, p *process, args ...string) error {
	pidFile, err := e.temporary("pid-*")
	if err != nil {
		return err
	}
	defer os.Remove(pidFile)
	args = append(args, "--pid-file", pidFile)
	terminal, err := e.terminalFor(p)
	if err != nil {
		return err
	}
	defer terminal.close()
	if terminal != nil {
		args = append(args, "--console-socket", terminal.path)
	}
	done := e.c.m.children.inherits()
	defer done()
	if err := e.run(ctx, p, append(args, e.id())...); err != nil {
		return namingCommand(err, p.Args)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return fmt.Errorf("%s made a process and did not say which: %w", e.rt.Path, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("%s made a process and named it %q, which is no pid", e.rt.Path, data)
	}
	if err := terminal.pass(p); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // nobody reaps it before done: the pid is its own
		return err
	}
	p.reap, err = e.c.m.children.inherit(pid)
	p.pid = pid
	return err
}

// namingCommand puts the command into words that do not have it, in runc's
// form, which users of Kubernetes know.
func namingCommand(err error, args []string) error {
	if name := fmt.Sprintf("exec: %q: ", args[0]); isStartError(err, args) && !strings.Contains(err.Error(), name) {
		return fmt.Errorf("%s%w", name, err)
	}
	return err
}

func (e *external) start(ctx context.Context) error {
	return e.run(ctx, nil, "start", e.id())
}

// status goes by pid and start time. Whether init still waits is asked of the
// runtime, and only when our own record does not say that it was started: the
// last monitor may have ended just after.
func (e *external) status() string {
	rec := e.c.copyRecord()
	if rec.Pid == 0 || rec.Born == 0 || startTime(rec.Pid) != rec.Born {
		return wire.Exited
	}
	if rec.Status == wire.Running {
		return wire.Running
	}
	ctx, cancel := context.WithTimeout(context.Background(), stateLimit)
	defer cancel()
	var state specs.State
	out, err := e.output(ctx, "state", e.id())
	if err == nil {
		err = json.Unmarshal(out, &state)
	}
	if err != nil {
		e.c.log.Warn("the runtime does not know its container; taken for one that was not started yet", "err", err)
		return wire.Created
	}
	if state.Status == specs.StateRunning || state.Status == "paused" {
		return wire.Running
	}
	return wire.Created
}

// destroy has the runtime forget the container. It has no process left, so when
// the runtime cannot (its program was removed, its state is damaged) all that
// is left are a cgroup and a directory, and they are removed here.
func (e *external) destroy() error {
	state := filepath.Join(e.rt.Root, e.id())
	if _, err := os.Lstat(state); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), deleteLimit)
		defer cancel()
		if err := e.run(ctx, nil, "delete", "--force", e.id()); err != nil {
			e.c.log.Warn("the runtime cannot delete its container: what it left is removed without it, poststop hooks do not run", "err", err)
		}
	}
	var errs []error
	if e.c.cgroup != nil {
		if err := e.c.cgroup.Destroy(); err != nil {
			errs = append(errs, fmt.Errorf("remove the cgroup: %w", err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(state), os.RemoveAll(e.dir))...)
}

// temporary is a new empty file in our directory.
func (e *external) temporary(pattern string) (string, error) {
	f, err := os.CreateTemp(e.dir, pattern)
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// withLimit is a deadline that names itself when it is over.
func withLimit(ctx context.Context, limit time.Duration, name string) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, &tooLate{limit: limit, name: name})
}

// tooLate is a DeadlineExceeded that says which.
type tooLate struct {
	limit time.Duration
	name  string
}

func (e *tooLate) Error() string        { return fmt.Sprintf("not done after %v (%s)", e.limit, e.name) }
func (e *tooLate) Is(target error) bool { return target == context.DeadlineExceeded }

//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// engine makes a container's processes. There are two: libcontainer inside
// this process (inProcess), and any OCI runtime by its command line (external).
// Whatever happens after a process was made is the same for both and not in
// here: waiting for it, its output, its OOM counter, signals, its end. An
// engine belongs to one container; create, start and destroy are called by the
// holder of the container's step, exec by anybody at any time.
type engine interface {
	// create makes the init process, which then waits for start, and puts its
	// pid and reap into p. An error may leave something for destroy.
	create(ctx context.Context, p *process) error
	// start lets init go on to the user's command.
	start(ctx context.Context) error
	// exec makes another process in the container and puts its pid and reap
	// into p. When ctx ends first, what was being made is killed.
	exec(ctx context.Context, p *process) error
	// update sets the limits that next names. An error may leave some of them
	// set: the caller knows what was before.
	update(ctx context.Context, next *specs.LinuxResources) error
	// dump writes CRIU's images of the container's processes into one
	// directory and its log (dump.log) into the other; they run on.
	dump(ctx context.Context, images, work string) error
	// restore makes the init process, and all that came of it, out of CRIU's
	// images and puts its pid and reap into p: they run when it returns. An
	// error may leave something for destroy.
	restore(ctx context.Context, p *process, images, work string) error
	// status is wire.Created or wire.Running when the init process that an
	// earlier monitor made still is that process, else wire.Exited.
	status() string
	// destroy gives back what the engine holds: its state and the cgroup, in
	// which nobody lives any more. It can be repeated.
	destroy() error
}

// process is a process to be made, in both engines' words. Its stdio
// (Stdin, Stdout, Stderr, all *os.File, or ConsoleSocket) is what the caller
// gave to libcontainer's part.
type process struct {
	libcontainer.Process
	spec *specs.Process

	pid  int
	reap func() (exitStatus, error)
}

// Pid is known once the process was made.
func (p *process) Pid() (int, error) {
	if p.pid == 0 {
		return 0, errors.New("the process was not made")
	}
	return p.pid, nil
}

// newEngine chooses by what the create asked for.
func (c *container) newEngine(r wire.Create, spec *specs.Spec) (engine, error) {
	if r.Runtime == nil {
		return newInProcess(c, r, spec)
	}
	return newExternal(c, r, spec)
}

// newCgroup is the container's cgroup, from the same path that the engine gets.
// Nothing is made yet.
func (m *monitor) newCgroup(r wire.Create, spec *specs.Spec) (cgroups.Manager, error) {
	config, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName: r.Key(), UseSystemdCgroup: m.bySystemd(spec.Linux.CgroupsPath), Spec: spec,
	}, nil)
	if err != nil {
		return nil, err
	}
	return manager.New(config)
}

// sharesPIDs says whether the container lives in somebody else's PID
// namespace, so that init's end leaves others alive.
func sharesPIDs(spec *specs.Spec) bool {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path != ""
		}
	}
	return true
}

// isStartError tells whether an engine refused the command itself. CRI wants
// that found by Start, but runtimes look for the command already at create:
// runc as `exec: "name": …` (os/exec.LookPath), crun as "executable file `name`
// not found" or "open executable: Permission denied".
func isStartError(err error, args []string) bool {
	if len(args) == 0 {
		return false
	}
	for _, said := range []string{"exec: " + strconv.Quote(args[0]) + ": ", "executable file `" + args[0] + "` not found", "open executable: "} {
		if strings.Contains(err.Error(), said) {
			return true
		}
	}
	return false
}

// startTime is when a process was made, in ticks since boot (proc(5)): with
// its pid it names a process for ever. 0: there is no such process, or it has
// ended and was not reaped yet.
func startTime(pid int) uint64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[19], 10, 64)
	return ticks
}

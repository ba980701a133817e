//go:build linux && cgo

package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// join resolves a path of a bundle.
func join(bundle, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(bundle, path)
}

// libcontainerConfig is libcontainer's form of a spec.
func (m *monitor) libcontainerConfig(r wire.Create, spec *specs.Spec) (*configs.Config, error) {
	// specconv resolves relative bind sources against the working directory,
	// which for runc is the bundle and for us is not.
	for i, mount := range spec.Mounts {
		if mount.Type == "bind" || hasOption(mount.Options, "bind", "rbind") {
			spec.Mounts[i].Source = join(r.Bundle, mount.Source)
		}
	}
	// For a user namespace to join it asks a child for the mapping.
	defer m.children.forking()()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: r.Key(), UseSystemdCgroup: m.bySystemd(spec.Linux.CgroupsPath), Spec: spec,
	})
	if err != nil {
		return nil, fmt.Errorf("its config.json: %w", err)
	}
	for i, label := range config.Labels {
		if strings.HasPrefix(label, "bundle=") { // hooks are told this
			config.Labels[i] = "bundle=" + r.Bundle
		}
	}
	return config, nil
}

// bySystemd says who makes the cgroup. The path's form decides, because the
// daemon's cgroup_manager may have been changed since this monitor started:
// "slice:prefix:name" is systemd's, a path is cgroupfs's (runtime-spec,
// config-linux.md, Cgroups Path).
func (m *monitor) bySystemd(path string) bool {
	if path == "" {
		return m.systemd
	}
	return !strings.HasPrefix(path, "/") && strings.Count(path, ":") == 2
}

func hasOption(options []string, oneOf ...string) bool {
	for _, o := range options {
		for _, a := range oneOf {
			if o == a {
				return true
			}
		}
	}
	return false
}

// initLogLevel is what an init says of itself: warnings, as this process does
// (logrus). Without a level it says all, 40 lines, each of which it writes and we
// read, parse and throw away: an eighth of an exec (15 to 13 ms).
var initLogLevel = strconv.Itoa(int(logrus.WarnLevel))

// newProcess is the engines' form of a spec's process section.
func newProcess(p *specs.Process) (*process, error) {
	lp := libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority,
		LogLevel: initLogLevel,
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if p.ConsoleSize != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("its config.json: no such rlimit: %q", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("its config.json: %w", err)
	}
	lp.CPUAffinity = affinity
	return &process{Process: lp, spec: p}, nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

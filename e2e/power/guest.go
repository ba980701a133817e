package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/troupe-run/troupe/e2e/blackout"
	"golang.org/x/sys/unix"
)

// Where things are in the machine. The root is read-only and made anew for
// every run of this program; the disk at data is what lives through the cuts.
const (
	data, runDir = "/data", "/run/troupe"
	imageRoot    = data + "/images"
	socket       = runDir + "/troupe.sock"
	logFile      = data + "/troupe.log" // it survives a cut in part only
)

// port is the machine's line to the host.
type port struct{ *blackout.Port }

func (p *port) tell(e Event) {
	p.Tell(func(after time.Duration) any {
		e.After = after
		return e
	})
}

// beMachine is process 1 of the guest. It never returns: the host ends it.
func beMachine() {
	p, plan, err := boot()
	if err == nil {
		err = obey(p, plan)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "power:", err)
		if p != nil {
			p.tell(Event{Kind: "failed", Error: err.Error()})
		}
	}
	for {
		time.Sleep(time.Hour) // an end of process 1 would be a panic of the kernel's
	}
}

func boot() (*port, *Plan, error) {
	for _, m := range []struct{ kind, at, options string }{
		{"devtmpfs", "/dev", ""},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", ""},
		{"tmpfs", "/root", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return nil, nil, fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, nil, fmt.Errorf("sharing mounts: %w", err)
	}
	for _, name := range strings.Fields(blackout.Modules) {
		if err := blackout.Load("/lib/modules/" + name + ".ko"); err != nil {
			return nil, nil, err
		}
	}
	var plan Plan
	p, err := blackout.OpenPort(&plan)
	if p == nil {
		return nil, nil, err
	}
	return &port{p}, &plan, errors.Join(err, blackout.Network(), mountData())
}

// mountData mounts the disk, which replays its journal.
func mountData() error {
	if err := blackout.HasCache(); err != nil {
		return err
	}
	if err := unix.Mount("/dev/"+blackout.DataDisk, data, "ext4", 0, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting the disk: %w", err)
	}
	return blackout.FileSystemErrors()
}

const configuration = `[crio]
root = "` + imageRoot + `"
runroot = "` + runDir + `/images"
storage_driver = "overlay"
[crio.api]
listen = "` + socket + `"
[crio.runtime]
cgroup_manager = "cgroupfs"
log_level = "info"
[crio.image]
insecure_registries = [%q]
[crio.network]
network_dir = "/run/net.d"
plugin_dirs = ["/run/cni"]
[crio.nri]
enable_nri = false
[troupe]
root = "` + data + `/troupe"
run = "` + runDir + `"
`

// startDaemon starts Troupe as on a node after a reboot.
func startDaemon(plan *Plan) error {
	for _, dir := range []string{"/run/net.d", "/run/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/run/troupe.conf", fmt.Appendf(nil, configuration, plan.Registry), 0o644); err != nil {
		return err
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("/bin/troupe", "--config", "/run/troupe.conf")
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Start()
}

// tail is for the reader of a failure.
func tail(lines int) string {
	text, _ := os.ReadFile(logFile)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

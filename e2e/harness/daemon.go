package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Daemon is a private troupe: own directories, socket, cgroup and network.
type Daemon struct {
	Socket, DebugSocket string
	NRISocket           string
	Config, LogFile     string
	CgroupParent        string
	Root, Run           string
	Network             *Network
	lab                 *Lab
	cmd                 *exec.Cmd
	bin                 string
	args, env, under    []string
}

// DaemonOptions are what may differ from the usual private daemon.
type DaemonOptions struct {
	Name     string   // of its directory; empty: "node"
	Network  *Network // nil: one without configuration
	Insecure []string // registries to be spoken to by plain HTTP
	Monitor  string   // empty: the one beside the binary
	Storage  string   // directory for images; empty: one in the lab
	Root     string   // directory for pods; empty: one in the lab
	Run      string   // directory for what a reboot ends; empty: one in the lab
	LogLevel string   // empty: debug
	Runtime  string   // further lines of [crio.runtime]
	Images   string   // further lines of [crio.image]
	Extra    string   // TOML at the end of the file
	API      string   // TOML in the table crio.api
	NRI      string   // further lines of [crio.nri]
	Args     []string // further arguments
	Binary   string   // empty: the one that make builds
	Env      []string // further environment
	Plugins  string   // directory of CNI plugins that is looked into before the distributions'
	Under    []string // a program, with its arguments, that becomes the daemon (prlimit, say)
}

// NewDaemon writes the configuration of a private daemon; Start starts it.
func (l *Lab) NewDaemon(o DaemonOptions) (*Daemon, error) {
	bin := o.Binary
	if bin == "" {
		var err error
		if bin, err = Tool("troupe"); err != nil {
			return nil, err
		}
	}
	var err error
	if o.Name == "" {
		o.Name = "node"
	}
	if o.Network == nil {
		if o.Network, err = l.NewNetwork(); err != nil {
			return nil, err
		}
	}
	if o.Storage == "" {
		o.Storage = l.Path(o.Name, "images")
	}
	if o.LogLevel == "" {
		o.LogLevel = "debug"
	}
	if o.Root == "" {
		o.Root = l.Path(o.Name, "lib")
	}
	if o.Run == "" {
		o.Run = l.Path(o.Name, "run")
	}
	d := &Daemon{
		Root: o.Root, Run: o.Run, LogFile: l.Path(o.Name, "troupe.log"),
		CgroupParent: "/" + l.Name, Network: o.Network, lab: l, bin: bin, args: o.Args, env: o.Env, under: o.Under,
	}
	d.Socket, d.DebugSocket = filepath.Join(d.Run, "troupe.sock"), filepath.Join(d.Run, "debug.sock")
	d.NRISocket = filepath.Join(d.Run, "nri", "nri.sock")
	policy, err := l.Write(`{"default": [{"type": "insecureAcceptAnything"}]}`, o.Name, "policy.json")
	if err != nil {
		return nil, err
	}
	d.Config, err = l.Write(d.toml(o, policy), o.Name, "troupe.conf")
	l.OnClose(d.end)
	return d, err
}

func (d *Daemon) toml(o DaemonOptions, policy string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[crio]\nroot = %q\nrunroot = %q\nstorage_driver = %q", o.Storage, filepath.Join(d.Run, "images"), "overlay")
	line("[crio.api]\nlisten = %q\n%s", d.Socket, o.API)
	line("[crio.runtime]\ncgroup_manager = %q\nlog_level = %q\n%s", "cgroupfs", o.LogLevel, o.Runtime)
	line("[crio.image]\nsignature_policy = %q\ninsecure_registries = %s\n%s", policy, list(o.Insecure), o.Images)
	line("[crio.network]\nnetwork_dir = %q\nplugin_dirs = %s", o.Network.Dir(), list(pluginDirs(o.Plugins)))
	line("[crio.nri]\nnri_listen = %q\nnri_plugin_dir = %q\nnri_plugin_config_dir = %q\n%s", d.NRISocket, filepath.Join(d.Run, "nri", "plugins"), filepath.Join(d.Run, "nri", "conf.d"), o.NRI)
	line("[troupe]\nroot = %q\nrun = %q\ncgroup_parent = %q\ndebug_listen = %q", d.Root, d.Run, d.CgroupParent, d.DebugSocket)
	if o.Monitor != "" {
		line("monitor_path = %q", o.Monitor)
	}
	b.WriteString(o.Extra)
	return b.String()
}

func pluginDirs(first string) []string {
	if first == "" {
		return PluginDirs
	}
	return append([]string{first}, PluginDirs...)
}

func list(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// Start starts the daemon and waits until it answers Version.
func (d *Daemon) Start(ctx context.Context) error {
	out, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	home, err := d.lab.Mkdir("home")
	if err != nil {
		return err
	}
	args := append(slices.Clone(d.under), append([]string{d.bin, "--config", d.Config}, d.args...)...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"))
	cmd.Env = append(cmd.Env, d.env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd = cmd
	if err := d.ready(ctx); err != nil {
		return fmt.Errorf("%w; the last of its log:\n%s", err, d.Tail(20))
	}
	return nil
}

// ready waits for an answer, or for the daemon's death.
func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cri, err := Dial(d.Socket)
	if err != nil {
		return err
	}
	defer cri.Close()
	for {
		_, err := cri.Runtime.Version(ctx, &runtime.VersionRequest{})
		if err == nil {
			return nil
		}
		if d.gone() {
			return fmt.Errorf("the daemon ended while starting: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not answer on %s: %w", d.Socket, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// gone says whether the process has ended, without taking its status.
func (d *Daemon) gone() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// Died says whether a daemon that was started has ended by itself, and takes its
// status.
func (d *Daemon) Died() bool {
	if d.cmd == nil || d.cmd.ProcessState != nil || !d.gone() {
		return d.cmd != nil && d.cmd.ProcessState != nil
	}
	_ = d.cmd.Wait() // how it ended is for its log
	return true
}

// Pid is the daemon's process, 0 when it was never started.
func (d *Daemon) Pid() int {
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// CPU is the time the daemon's process has had on the cores, which is what it
// costs also where others keep it from them; the kernel counts hundredths.
func (d *Daemon) CPU() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var total time.Duration
	for _, field := range strings.Fields(rest)[11:13] { // utime, stime (proc(5): USER_HZ is 100)
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ticks) * 10 * time.Millisecond
	}
	return total, nil
}

// Command is a troupe command that asks this daemon's debug socket.
func (d *Daemon) Command(args ...string) *exec.Cmd {
	return exec.Command(d.bin, append(args, "--socket", d.DebugSocket)...)
}

// Kill is SIGKILL: no chance to tidy up.
func (d *Daemon) Kill() error { return killed(d.cmd) }

// Stop is SIGTERM and waits; containers live on.
func (d *Daemon) Stop() error {
	if d.cmd == nil || d.cmd.ProcessState != nil {
		return nil
	}
	return end(d.cmd)
}

// Monitors are the troupe-monitor processes of this daemon, without their
// keepers.
func (d *Daemon) Monitors() []int { return d.monitors("troupe-monitor") }

// Keepers are the parents of the monitors, which start them again when they die.
func (d *Daemon) Keepers() []int { return d.monitors("troupe-keeper") }

// monitors are the processes of the monitor's program that go by a name.
func (d *Daemon) monitors(name string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(cmdline), "\x00")
		if err != nil || filepath.Base(args[0]) != "troupe-monitor" || !strings.Contains(string(cmdline), filepath.Join(d.Run, "monitor")) {
			continue
		}
		if comm, err := os.ReadFile(dir + "/comm"); err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// StopMonitor ends the monitor, which is the parent of all containers: only
// for when there are none left.
func (d *Daemon) StopMonitor() error {
	for _, pid := range d.Monitors() {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping monitor %d: %w", pid, err)
		}
	}
	for range 50 {
		if len(d.Monitors())+len(d.Keepers()) == 0 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return d.KillMonitorAndKeeper()
}

// KillMonitorAndKeeper is SIGKILL to both. Each would start the other again, so
// both are made to stand still first.
func (d *Daemon) KillMonitorAndKeeper() error {
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		for _, pid := range append(d.Keepers(), d.Monitors()...) {
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing monitor or keeper %d: %w", pid, err)
			}
		}
	}
	for len(d.Monitors())+len(d.Keepers()) > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func (d *Daemon) end() error { return errors.Join(d.Stop(), d.StopMonitor()) }

// Surveyor looks where this daemon's things would be.
func (d *Daemon) Surveyor() Surveyor {
	return Surveyor{
		Cgroups: d.lab.Name, Addresses: d.Network.Addresses, Bridge: d.Network.Bridge,
		Files: []string{
			filepath.Join(d.Root, "pods"), filepath.Join(d.Run, "shm"),
			filepath.Join(d.Run, "ns", "net"), filepath.Join(d.Run, "ns", "ipc"), filepath.Join(d.Run, "ns", "uts"),
		},
		Daemon: d.bin + " --config " + d.Config, // it may have been started anew
	}
}

// Tail is the end of the daemon's log.
func (d *Daemon) Tail(lines int) string {
	text, _ := os.ReadFile(d.LogFile)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Grep is the last lines of the daemon's log that hold the text.
func (d *Daemon) Grep(text string, lines int) string {
	log, _ := os.ReadFile(d.LogFile)
	var found []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found[max(0, len(found)-lines):], "\n")
}

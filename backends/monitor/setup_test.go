package monitor_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

// program and rootfs are made once: the monitor's binary (unless
// TROUPE_TEST_MONITOR names one, for a machine without a compiler), and a root
// file system with a static busybox.
var program, rootfs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "troupe-monitor-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		program, rootfs = filepath.Join(dir, "troupe-monitor"), filepath.Join(dir, "rootfs")
		if ready := os.Getenv("TROUPE_TEST_MONITOR"); ready != "" {
			program = ready
		} else if err := buildMonitor(program); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := makeRootfs(rootfs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func buildMonitor(to string, tags ...string) error {
	build := exec.Command("go", "build", "-tags", strings.Join(append(tags, "seccomp netgo osusergo"), " "), "-ldflags", "-s -w -extldflags -static",
		"-o", to, "github.com/troupe-run/troupe/cmd/troupe-monitor")
	if os.Getenv("TROUPE_TEST_RACE") != "" {
		build.Args = append(build.Args[:2:2], "-race", "-tags", "seccomp netgo osusergo", "-o", to, "github.com/troupe-run/troupe/cmd/troupe-monitor")
	}
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build troupe-monitor: %w\n%s", err, out)
	}
	return nil
}

func makeRootfs(root string) error {
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("cp", "/bin/busybox", filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		return fmt.Errorf("copy busybox (Debian package busybox-static): %w: %s", err, out)
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
				return err
			}
		}
	}
	return nil
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// slowness stretches limits of time where the machine is emulated (e2e/vm.sh).
func slowness() time.Duration {
	if factor, err := strconv.Atoi(os.Getenv("TROUPE_TEST_SLOWNESS")); err == nil && factor > 0 {
		return time.Duration(factor)
	}
	return 1
}

// node is a monitor of its own and a daemon's connection to it.
type node struct {
	t       testing.TB
	dir     string
	cgroup  string
	cfg     monitor.Config
	handler string // of new containers
	*monitor.Client
	facts  chan messages.ProcessState
	exits  map[string]messages.ProcessState // told while another's was waited for
	hangUp context.CancelFunc
	ended  chan error
}

// ociRuntimes are those that this machine has.
func ociRuntimes() map[string]wire.Runtime {
	found := map[string]wire.Runtime{}
	for _, name := range []string{"crun", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			found[name] = wire.Runtime{Kind: name, Path: path}
		}
	}
	return found
}

// newNode starts a monitor; at the test's end it must have nothing left.
func newNode(t testing.TB) *node {
	n := makeNode(t)
	t.Cleanup(n.end)
	n.connect()
	return n
}

func makeNode(t testing.TB) *node {
	n := &node{t: t, dir: t.TempDir(), cgroup: "/troupe-test-" + newID()[:12]}
	n.handler = os.Getenv("TROUPE_TEST_HANDLER")
	if n.handler == "" {
		n.handler = monitor.Builtin
	}
	n.cfg = monitor.Config{Handlers: ociRuntimes(), Binary: program, Dir: filepath.Join(n.dir, "monitor"), ReconnectWait: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	return n
}

// connect is a daemon's start. As the daemon does, it tries again when the
// monitor is lost meanwhile.
func (n *node) connect() {
	n.t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = n.tryConnect(); messages.KindOf(err) != messages.Unavailable || err == nil {
			break
		}
	}
	if err != nil {
		n.ended <- err // for the end of the test
		n.t.Fatalf("connect: %v", err)
	}
}

func (n *node) tryConnect() error {
	n.Client = monitor.New(n.cfg)
	n.facts, n.ended = make(chan messages.ProcessState, 1000), make(chan error, 1)
	ready := make(chan struct{})
	var ctx context.Context
	ctx, n.hangUp = context.WithCancel(context.Background())
	go func(c *monitor.Client, facts chan messages.ProcessState, ended chan error) {
		ended <- c.Connect(ctx, func(s messages.ProcessState) { facts <- s }, func() { close(ready) })
	}(n.Client, n.facts, n.ended)
	select {
	case <-ready:
		return nil
	case err := <-n.ended:
		return err
	case <-time.After(20 * time.Second):
		n.hangUp()
		<-n.ended
		return errors.New("the monitor does not answer")
	}
}

// disconnect is a daemon's death, as the monitor sees it.
func (n *node) disconnect() {
	n.hangUp()
	<-n.ended
}

func (n *node) end() {
	n.disconnect()
	n.connect()
	held, err := n.Held(n.ctx())
	if err != nil {
		n.t.Errorf("held: %v", err)
	}
	for _, h := range held {
		if err := n.Drop(n.ctx(), h); err != nil {
			n.t.Errorf("drop %+v: %v", h, err)
		}
	}
	pid := n.monitorPid()
	if err := n.Quit(n.ctx()); err != nil {
		n.t.Errorf("quit: %v", err)
	}
	n.eventually("the monitor ends, and its keeper", func() bool {
		return syscall.Kill(pid, 0) != nil && len(n.processes("troupe-keeper")) == 0
	})
	for _, left := range []string{"state/*", "containers/*", "exits/*", "oci/*", "runtimes/*/*", "spool/*"} {
		if found, _ := filepath.Glob(filepath.Join(n.cfg.Dir, left)); len(found) > 0 {
			n.t.Errorf("left behind: %v", found)
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	for _, d := range append(cgroups, "/sys/fs/cgroup"+n.cgroup) {
		if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
			n.t.Errorf("the parent cgroup is not empty: %v", err)
		}
	}
	data, err := os.ReadFile(filepath.Join(n.cfg.Dir, "monitor.log"))
	if err != nil || strings.Contains(string(data), "DATA RACE") || strings.Contains(string(data), "a bug: panic") {
		n.t.Errorf("the monitor's log is missing, or tells of a race or a panic: %v", err)
	}
	if n.t.Failed() {
		n.t.Logf("monitor.log:\n%s", data)
	}
}

func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	n.t.Cleanup(cancel)
	return ctx
}

// monitorPid finds the monitor of this node by its command line, which its
// keeper has too.
func (n *node) monitorPid() int {
	n.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, pid := range n.processes("troupe-monitor") { // one that was killed is started again
			return pid
		}
	}
	n.t.Fatal("there is no monitor")
	return 0
}

func (n *node) keeperPid() int {
	n.t.Helper()
	for _, pid := range n.processes("troupe-keeper") {
		return pid
	}
	n.t.Fatal("there is no keeper")
	return 0
}

// processes are those of this node that go by the name, zombies left out.
func (n *node) processes(name string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		data, _ := os.ReadFile(file)
		args := strings.Split(string(data), "\x00")
		if len(args) < 3 || args[1] != "--dir" || args[2] != n.cfg.Dir {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
		if strings.TrimSpace(string(comm)) == name {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	n.t.Errorf("not after 15 s: %s", what)
}

// container writes a bundle that runs args.
func (n *node) container(args []string, change ...func(*specs.Spec)) backends.ProcessRequest {
	n.t.Helper()
	r := backends.ProcessRequest{Pod: newID(), Container: newID(), Handler: n.handler}
	r.Bundle, r.LogPath = filepath.Join(n.dir, "bundles", r.Container), filepath.Join(n.dir, "logs", r.Container, "0.log")
	if err := os.MkdirAll(r.Bundle, 0o755); err != nil {
		n.t.Fatal(err)
	}
	spec := busyboxSpec(n.cgroup+"/"+r.Container, args)
	for _, c := range change {
		c(spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Bundle, "config.json"), data, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return r
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func busyboxSpec(cgroup string, args []string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "WHO=container"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup, Resources: &specs.LinuxResources{},
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "network"}},
		},
	}
}

func hostPID(s *specs.Spec) {
	s.Linux.Namespaces = s.Linux.Namespaces[1:]
}

// run creates and starts.
func (n *node) run(r backends.ProcessRequest) messages.ProcessState {
	n.t.Helper()
	if _, err := n.Create(n.ctx(), r); err != nil {
		n.t.Fatalf("create: %v", err)
	}
	s, err := n.Start(n.ctx(), r.Pod, r.Container)
	if err != nil {
		n.t.Fatalf("start: %v", err)
	}
	return s
}

// exit waits for the fact that a container has ended.
func (n *node) exit(r backends.ProcessRequest) messages.ProcessState {
	n.t.Helper()
	limit := time.After(20 * time.Second)
	if n.exits == nil {
		n.exits = map[string]messages.ProcessState{}
	}
	for {
		if s, told := n.exits[r.Container]; told {
			delete(n.exits, r.Container)
			return s
		}
		select {
		case s := <-n.facts:
			if s.Status == messages.ProcessExited {
				n.exits[s.Container] = s
			}
		case <-limit:
			n.t.Fatalf("the exit of %s is not told", r.Container)
		}
	}
}

func (n *node) log(r backends.ProcessRequest) string {
	n.t.Helper()
	data, err := os.ReadFile(r.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

func wantKind(t *testing.T, err error, kind messages.Kind, words string) {
	t.Helper()
	if err == nil || messages.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		t.Errorf("got error %v (kind %d), want kind %d with %q", err, messages.KindOf(err), kind, words)
	}
}

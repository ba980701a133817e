package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/backends/stats"
	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// running is a daemon over a node in memory, in directories of its own.
type running struct {
	node      *fake.Node
	dir, file string
	log       *testlog.Log
	signals   chan os.Signal
	pins      *heldPins
	reloads   int
	ended     chan error
}

// heldPins lets a test hold up every RunPodSandbox.
type heldPins struct {
	backends.Namespaces
	entered, gate chan struct{}
}

func (h *heldPins) Pin(ctx context.Context, r backends.NamespaceRequest) (messages.Namespaces, error) {
	h.entered <- struct{}{}
	select {
	case <-h.gate:
		return h.Namespaces.Pin(ctx, r)
	case <-ctx.Done():
		return messages.Namespaces{}, ctx.Err()
	}
}

// startDaemon starts one whose file has extra at its end, and waits until it
// is ready or has ended.
func startDaemon(t *testing.T, dir, extra string) *running {
	t.Helper()
	r := &running{
		dir: dir, file: filepath.Join(dir, "troupe.conf"), log: &testlog.Log{},
		signals: make(chan os.Signal, 8), ended: make(chan error, 1),
		pins: &heldPins{entered: make(chan struct{}, 8), gate: make(chan struct{})},
	}
	r.write(t, extra)
	loaded, err := config.Load(config.Source{File: r.file})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	d := &daemon{
		config: loaded, log: newLogging(r.log, loaded.Config), signals: r.signals, ready: func() { close(ready) },
		build: func(c *config.Config, log *slog.Logger) (*machine, error) {
			handlers, err := findHandlers(c, log)
			if err != nil {
				return nil, err
			}
			r.node = fake.New(fake.Config{})
			node := r.node.Backends()
			r.pins.Namespaces = node.Namespaces
			node.Namespaces = r.pins
			meter, err := stats.New(stats.Config{Root: dir}) // nobody asks it here
			if err != nil {
				return nil, err
			}
			return &machine{Node: node, handlers: handlers, meter: meter, reload: func(*config.Config) error { r.reloads++; return nil }, closers: []func() error{meter.Close}}, nil
		},
	}
	go func() { r.ended <- d.run(context.Background()) }()
	select {
	case <-ready:
		t.Cleanup(func() { r.end(t) })
	case err := <-r.ended:
		r.ended <- err
	case <-time.After(20 * time.Second):
		t.Fatalf("not ready:\n%s", r.log)
	}
	return r
}

func (r *running) write(t *testing.T, extra string) {
	t.Helper()
	text := fmt.Sprintf("[troupe]\nroot = %q\nrun = %q\n%s\n", filepath.Join(r.dir, "lib"), filepath.Join(r.dir, "run"), extra)
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *running) socket() string { return filepath.Join(r.dir, "run", "troupe.sock") }

// end is SIGTERM, unless it has ended already, and SIGTERM again if need be.
func (r *running) end(t *testing.T) error {
	t.Helper()
	for range 2 {
		select {
		case r.signals <- unix.SIGTERM:
		default:
		}
		if err, ok := r.wait(10 * time.Second); ok {
			return err
		}
	}
	t.Fatalf("the daemon does not end:\n%s", r.log)
	return nil
}

func (r *running) wait(limit time.Duration) (err error, ended bool) {
	select {
	case err := <-r.ended:
		r.ended <- err
		return err, true
	case <-time.After(limit):
		return nil, false
	}
}

// cli runs a command against the daemon.
func (r *running) cli(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), append(args, "--config", r.file), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// shortDir is a directory whose sockets' paths fit into 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "troupe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestADaemonServesAndEndsLeavingNoSocket(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	waitFor(t, "the node is ready", func() bool { code, _, _ := r.cli("status"); return code == 0 })
	_, out, _ := r.cli("status", "-o", "json")
	if !strings.Contains(out, `"ready": true`) || !strings.Contains(out, `"libcontainer"`) {
		t.Errorf("status is %s", out)
	}
	if _, out, errs := r.cli("tree"); !strings.Contains(out, "sweeper") {
		t.Errorf("tree is %s%s", out, errs)
	}
	for _, name := range []string{"troupe.sock", "debug.sock"} {
		info, err := os.Stat(filepath.Join(r.dir, "run", name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v %v, want 0600", name, info, err)
		}
	}
	if info, _ := os.Stat(filepath.Join(r.dir, "run")); info.Mode().Perm() != 0o700 {
		t.Errorf("the run directory is %v, want 0700", info.Mode())
	}
	if err := r.end(t); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "run", "*.sock")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	code, _, errs := r.cli("status")
	if code != 1 || !strings.Contains(errs, "does not run") || !strings.Contains(errs, "systemctl start troupe") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status of no daemon: %d %q", code, errs)
	}
}

func TestASecondDaemonGivesOneErrorAndChangesNothing(t *testing.T) {
	r := startDaemon(t, shortDir(t), "")
	before, _ := os.Stat(r.socket())
	second := startDaemon(t, r.dir, "")
	err := second.end(t)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d) already uses", os.Getpid())) || strings.Contains(err.Error(), "\n") {
		t.Errorf("the second says %v", err)
	}
	if second.log.String() != "" {
		t.Errorf("the second logged %s", second.log)
	}
	after, err := os.Stat(r.socket())
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the first's socket was touched: %v", err)
	}
	if code, _, errs := r.cli("tree"); code != 0 {
		t.Errorf("the first no longer answers: %s", errs)
	}
}

func TestASocketSomebodyElseServesIsLeftAlone(t *testing.T) {
	dir := shortDir(t)
	other := filepath.Join(dir, "crio.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := startDaemon(t, dir, fmt.Sprintf("[crio.api]\nlisten = \"unix://%s\"", other))
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "another process answers already on "+other) {
		t.Errorf("it says %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestAStaleSocketIsReplacedAndAFileIsNot(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "x.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	l, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("got %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "precious" {
		t.Error("the file was changed")
	}
}

func TestAPortInUseEndsTheStartWithNothingLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	r := startDaemon(t, shortDir(t), fmt.Sprintf("[crio.metrics]\nenable_metrics = true\nmetrics_port = %d", port))
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "metrics_port") {
		t.Errorf("it says %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "run", "*.sock")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

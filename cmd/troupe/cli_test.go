package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/troupe-run/troupe/backends/images"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMain(m *testing.M) {
	if images.Init() { // as in main
		return
	}
	os.Exit(m.Run())
}

func cli(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestAWrongCommandLineIsOneLineAndExitCode2(t *testing.T) {
	for _, args := range [][]string{
		{"--nonsense"},
		{"nonsense"},
		{"tree", "x"},
		{"timeline", "a", "b"},
		{"version", "-o", "yaml"},
		{"--config", "/nonexistent", "config", "check"},
		{"--config", "/nonexistent"},
		{"--set", "a", "config", "check"},
	} {
		code, _, errs := cli(args...)
		if code != exitUsage || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "troupe: ") {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}

func TestConfigCheckNamesWhatHasNoEffect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.conf")
	if err := os.WriteFile(file, []byte("[crio.runtime]\nno_pivot = true\nnonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := cli("config", "check", "--config", file)
	if code != 0 || !strings.Contains(out, "no_pivot = true is known but not honoured") ||
		!strings.Contains(out, "nonsense is not an option") || !strings.Contains(out, "options without effect: 2") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if err := os.WriteFile(file, []byte("[crio.runtime]\nno_pivot = 1\npids_limit = \"2\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs = cli("config", "check", "--config", file)
	if code != exitUsage || strings.Count(errs, "troupe: "+file) != 2 {
		t.Errorf("%d %s", code, errs)
	}
}

func TestTheSampleInPackagingIsWhatConfigPrints(t *testing.T) {
	_, out, _ := cli("config")
	sample, err := os.ReadFile("../../packaging/troupe.conf")
	if err != nil {
		t.Fatal(err)
	}
	if string(sample) != out {
		t.Error("packaging/troupe.conf is not what `troupe config` prints: write it anew")
	}
}

func TestVersionIsMachineReadable(t *testing.T) {
	_, out, _ := cli("version", "-o", "json")
	var b build
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.GoVersion == "" || b.Version == "" {
		t.Errorf("%s: %v", out, err)
	}
}

func TestTheKubeletCanParseEveryVersion(t *testing.T) {
	for from, want := range map[string]string{
		"v1.37.2": "1.37.2", "1.37.2-3-gabc-dirty": "1.37.2-3-gabc-dirty", "4634288-dirty": "1.37.0-dev+4634288.dirty", "unknown": "1.37.0-dev+unknown",
	} {
		if got := semver(from); got != want {
			t.Errorf("%s is %s, want %s", from, got, want)
		}
	}
}

// onDisk is a configuration whose directories are the test's own.
func onDisk(t *testing.T) *config.Config {
	t.Helper()
	dir := t.TempDir()
	c := config.Defaults()
	c.Troupe.Root, c.Troupe.Run = filepath.Join(dir, "lib"), filepath.Join(dir, "run")
	c.Storage.Root, c.Storage.RunRoot = filepath.Join(dir, "images"), filepath.Join(dir, "runroot")
	c.Runtime.CgroupManager = config.CgroupFS
	c.Troupe.MonitorPath = "/bin/true" // it is started by Connect only
	return c
}

func TestTheRealBackendsAreAllThere(t *testing.T) {
	m, err := buildMachine(onDisk(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(*m.Node)
	for i := range v.NumField() {
		if v.Field(i).IsNil() {
			t.Errorf("%s is missing", v.Type().Field(i).Name)
		}
	}
	if err := m.reload(config.Defaults()); err != nil {
		t.Error(err)
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}

func TestABackendThatCannotBeMadeIsOneClearError(t *testing.T) {
	for want, spoil := range map[string]func(*config.Config){
		"/nonexistent/monitor": func(c *config.Config) { c.Troupe.MonitorPath = "/nonexistent/monitor" },
		"seccomp_profile":      func(c *config.Config) { c.Runtime.SeccompProfile = "/nonexistent/seccomp.json" },
		"/nonexistent/policy":  func(c *config.Config) { c.Image.SignaturePolicy = "/nonexistent/policy" },
		"cgroup":               func(c *config.Config) { c.Troupe.CgroupParent = "../up" },
	} {
		c := onDisk(t)
		spoil(c)
		_, err := buildMachine(c, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestTheLogFilterHidesNoFailure(t *testing.T) {
	var out bytes.Buffer
	c := config.Defaults()
	c.Runtime.LogFilter = "^rpc"
	l := newLogging(&out, c)
	l.With("pod", "p").Info("rpc one")
	l.Info("noise")
	l.Warn("trouble")
	c.Runtime.LogFilter, c.Runtime.LogLevel = "", "error"
	l.apply(c)
	l.Warn("quiet now")
	l.Error("bad")
	text := out.String()
	for word, want := range map[string]bool{"rpc one": true, "pod=p": true, "noise": false, "trouble": true, "quiet": false, "bad": true} {
		if strings.Contains(text, word) != want {
			t.Errorf("%q in the log: %v, want %v\n%s", word, !want, want, text)
		}
	}
}

func render(fill func(*table)) string {
	var out bytes.Buffer
	t := &table{w: tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)}
	fill(t)
	_ = t.flush()
	return out.String()
}

func TestATimelineReadsTopDown(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	edge := func(after time.Duration, from, to, step string, took time.Duration) *debugv1.Edge {
		return &debugv1.Edge{At: timestamppb.New(at.Add(after)), From: from, To: to, Step: step, Took: durationpb.New(took)}
	}
	text := render(func(tb *table) {
		showTimeline(tb, &debugv1.TimelineResponse{Lives: []*debugv1.Life{
			{PodSandboxId: strings.Repeat("ab", 32), Name: "ns/web", State: "ready", Edges: []*debugv1.Edge{
				edge(0, "", "starting", "", 0), edge(30*time.Millisecond, "starting", "starting", "network", 28*time.Millisecond),
				edge(31*time.Millisecond, "starting", "ready", "", 0),
			}},
			{Name: "a/b:c", State: "fetching", Edges: []*debugv1.Edge{edge(0, "fetching", "fetching", "layer sha256:1 stalled", 0)}},
			{PodSandboxId: strings.Repeat("ab", 32), ContainerId: strings.Repeat("cd", 32), Name: "evil\x1b[31m", State: "creating", Step: "rootfs", Since: timestamppb.Now()},
		}})
	})
	for _, want := range []string{"pod ababababababa ns/web: ready", "03:04:05.030  +30ms", "network", "28ms", "starting → ready", "in step rootfs for", "\npull a/b:c: fetching\n", "layer sha256:1 stalled"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("a control character of a name reaches the terminal")
	}
}

func TestTheTreeIsIndented(t *testing.T) {
	text := render(func(tb *table) {
		showTree(tb, &debugv1.TreeResponse{Actors: []*debugv1.Actor{
			{Path: "node", State: "ready"}, {Path: "node/sandbox-" + strings.Repeat("ab", 32), State: "ready", Owns: []string{"pid:1", "ip:10.0.0.2"}},
		}})
	})
	if !strings.Contains(text, "\n  sandbox-ababababababa  ready") || !strings.Contains(text, "pid:1 ip:10.0.0.2") {
		t.Errorf("the tree is\n%s", text)
	}
}

// The Go runtime ends a program that panics, or gets the watchdog's SIGABRT,
// with 2: a unit that is not restarted then stays down with a whole node.
func TestSystemdRestartsADaemonThatPanicsAndNotOneThatCannotBeConfigured(t *testing.T) {
	unit, err := os.ReadFile("../../packaging/troupe.service")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(unit), fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitUsage)) || exitUsage == 2 {
		t.Errorf("the unit is not kept down by just %d:\n%s", exitUsage, unit)
	}
}

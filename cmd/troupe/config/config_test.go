package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// write makes a main file, with drop-ins beside it, and gives its source.
func write(t *testing.T, text string, dropIns map[string]string) Source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "troupe.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range dropIns {
		if err := os.WriteFile(filepath.Join(file+".d", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Source{File: file}
}

func load(t *testing.T, src Source) *Loaded {
	t.Helper()
	l, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWithoutAFileEverythingHasAWorkingDefault(t *testing.T) {
	c := Defaults()
	for _, x := range []struct{ what, got, want string }{
		{"listen", c.API.Listen, "/run/troupe/troupe.sock"},
		{"debug_listen", c.Troupe.DebugListen, "/run/troupe/debug.sock"},
		{"root", c.Troupe.Root, "/var/lib/troupe"},
		{"network_dir", c.Network.Dir, "/etc/cni/net.d"},
		{"plugin_dirs", strings.Join(c.UsePluginDirs(), " "), "/opt/cni/bin /usr/libexec/cni /usr/lib/cni"},
		{"default_runtime", c.Runtime.DefaultHandler, "libcontainer"},
		{"handlers", strings.Join(c.HandlerNames(), " "), "libcontainer"},
	} {
		if x.got != x.want {
			t.Errorf("%s is %q, want %q", x.what, x.got, x.want)
		}
	}
	for _, o := range Options() {
		if !o.Honoured() {
			continue
		}
		if err := o.check(o.read(c, BuiltinHandler)); err != nil {
			t.Errorf("the default of %s is refused: %v", o.Key, err)
		}
	}
}

func TestSocketsFollowTheRunDirectoryUnlessTheyAreNamed(t *testing.T) {
	l := load(t, write(t, "[troupe]\nrun = \"/tmp/x/run\"\ndebug_listen = \"/tmp/y.sock\"", nil))
	if l.API.Listen != "/tmp/x/run/troupe.sock" || l.Troupe.DebugListen != "/tmp/y.sock" {
		t.Errorf("listen is %s, debug_listen is %s", l.API.Listen, l.Troupe.DebugListen)
	}
}

func TestDropInsWinInLexicalOrderOptionByOption(t *testing.T) {
	l := load(t, write(t, "[crio.runtime]\nlog_level = \"warn\"\npids_limit = 7", map[string]string{
		"10-a":           "[crio.runtime]\nlog_level = \"debug\"",
		"9-b.conf":       "[crio.runtime]\nlog_level = \"error\"", // after 10-a, as letters go
		".hidden":        "broken",
		"20-c.conf~":     "broken",
		"30-d.dpkg-dist": "broken",
	}))
	if l.Runtime.LogLevel != "error" || l.Runtime.PidsLimit != 7 {
		t.Errorf("log_level is %s, pids_limit is %d", l.Runtime.LogLevel, l.Runtime.PidsLimit)
	}
	if len(l.Files) != 3 {
		t.Errorf("read %v", l.Files)
	}
}

func TestSetOnTheCommandLineWinsOverFiles(t *testing.T) {
	src := write(t, "[crio.runtime]\nlog_level = \"warn\"", nil)
	src.Set = []string{"crio.runtime.log_level=debug", "troupe.pull_lane=2", `crio.image.insecure_registries=["127.0.0.1:5000"]`}
	l := load(t, src)
	if l.Runtime.LogLevel != "debug" || l.Troupe.Lanes.Image != 2 || len(l.Image.InsecureRegistries) != 1 {
		t.Errorf("got %+v %+v %+v", l.Runtime, l.Troupe, l.Image)
	}
}

func TestCRIOsOwnFileIsAccepted(t *testing.T) {
	l := load(t, Source{File: "testdata/crio.conf"})
	if l.API.Listen != "/var/run/crio/crio.sock" || l.Metrics.Port != 9537 || l.Image.PullStall != 0 {
		t.Errorf("the file's values are not used: %+v %+v", l.API, l.Metrics)
	}
	if crun := l.Handlers["crun"]; l.Runtime.DefaultHandler != "crun" || crun.Path != "/usr/bin/crun" || crun.Root != "/run/crun" {
		t.Errorf("default handler is %s: %+v", l.Runtime.DefaultHandler, crun)
	}
	if names := fmt.Sprint(l.HandlerNames()); names != "[crun libcontainer]" {
		t.Errorf("offered: %s", names)
	}
	named := map[string]bool{}
	for _, f := range l.Findings {
		if f.Unknown {
			t.Errorf("an option of crio.conf(5) is unknown: %s", f)
		}
		named[f.Key] = true
	}
	for _, key := range []string{
		"crio.runtime.runtimes.kata.runtime_type", "crio.runtime.workloads.management.resources.cpuset",
		"crio.runtime.runtimes.crun.monitor_path",
	} {
		if !named[key] {
			t.Errorf("%s has no effect and is not named", key)
		}
	}
	if named["crio.runtime.no_pivot"] || named["crio.runtime.log_level"] {
		t.Error("an option that says what is done anyway is complained about")
	}
}

func TestUnknownOptionsAreNamedWithTheirPlace(t *testing.T) {
	l := load(t, write(t, "[crio]\nlog_level = \"debug\"\n[crio.nonsense]\na = 1\n[other]\n", nil))
	text := fmt.Sprint(l.Findings)
	for _, want := range []string{"crio.log_level is not an option; it belongs into [crio.runtime]", "crio.nonsense.a is not", "other is not"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
}

func TestALaterFileCanTakeAComplaintBack(t *testing.T) {
	l := load(t, write(t, "[crio.runtime]\nno_pivot = true", map[string]string{"1": "[crio.runtime]\nno_pivot = false"}))
	if len(l.Findings) != 0 {
		t.Errorf("got %v", l.Findings)
	}
}

func TestABadValueIsOneErrorWithFileKeyAndFix(t *testing.T) {
	for text, want := range map[string]string{
		"[crio.metrics]\nmetrics_port = \"9090\"":               `crio.metrics.metrics_port is the string "9090"; use a whole number, without quotes`,
		"[crio.metrics]\nmetrics_port = 70000":                  "crio.metrics.metrics_port is 70000; use a port",
		"[crio.runtime]\ncgroup_manager = \"cgroups\"":          `crio.runtime.cgroup_manager is "cgroups"; use one of`,
		"[crio.runtime]\nhostnetwork_disable_selinux = \"yes\"": "crio.runtime.hostnetwork_disable_selinux is the string \"yes\"; use true or false",
		"[crio.runtime]\nno_pivot = 3":                          "crio.runtime.no_pivot is 3; use true or false", // not honoured, still checked
		"[crio.runtime]\nlog_filter = \"(\"":                    "not a regular expression",
		"[crio.runtime]\ndefault_ulimits = [\"nofile\"]":        "name=soft:hard",
		"[crio.runtime]\ndefault_ulimits = [\"nofile=3:2\"]":    "above the hard one",
		"[crio.runtime]\ndefault_runtime = \"crunn\"":           "no table [crio.runtime.runtimes.crunn]",
		"[crio.image]\npinned_images = \"a\"":                   "use a list of strings",
		"[crio.image]\npull_progress_timeout = 10":              "use a time in quotes",
		"[crio.image]\npull_progress_timeout = \"ten\"":         "use a time like",
		"[crio.api]\nlisten = \"troupe.sock\"":                  "use an absolute path",
		"[troupe]\nrun = \"\"":                                  "leave the line out",
		"[troupe]\nstart_lane = 0":                              "use 1 or more",
		"[troupe]\nroot = \"var\"":                              "use an absolute path",
		"[crio]\nstorage_driver = \"btrfs\"":                    `use one of: "", "overlay"`,
		"crio = 3":                                              "crio is 3; it must be a table: [crio]",
		"[crio\nroot=1":                                         "troupe.conf:2: not TOML",
		"[crio.runtime]\ndefault_runtime = \"kata\"\n[crio.runtime.runtimes.kata]\nruntime_type = \"vm\"": "a handler of type vm: a virtual machine needs",
		"[crio.runtime.runtimes.x]\nruntime_path = \"crun\"":                                              "use an absolute path",
		"[crio.runtime.runtimes.x]\nallowed_annotations = [\"\"]":                                         "would allow all",
		"[crio.runtime.runtimes.x]\ncontainer_min_memory = \"some\"":                                      "use a size like 12MiB",
		"[crio.runtime.runtimes.x]\nexec_cpu_affinity = \"last\"":                                         "use one of",
		"[crio.runtime.runtimes.x]\nplatform_runtime_paths = { a = \"b\" }":                               "use an absolute path",
		"[crio.runtime.runtimes.libcontainer]\nruntime_type = \"oci\"":                                    "is built in",
		"[crio.api]\nlisten = \"/" + strings.Repeat("a", 120) + "\"":                                      "the kernel allows",
	} {
		_, err := Load(write(t, text, nil))
		var bad *Error
		if !errors.As(err, &bad) {
			t.Errorf("%q is accepted: %v", text, err)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "troupe.conf") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q gives %q, want %q", text, err, want)
		}
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	_, err := Load(write(t, "[crio.runtime]\nread_only = 1\npids_limit = true", nil))
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want two lines, got %v", err)
	}
}

func TestANamedFileMustExistTheDefaultOneNeedNot(t *testing.T) {
	if _, err := Load(Source{File: "/nonexistent/troupe.conf"}); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(Source{Dir: "/nonexistent"}); err == nil || !strings.Contains(err.Error(), "--config-dir") {
		t.Errorf("got %v", err)
	}
}

// other is a valid value that is not the default.
func other(o Option) string {
	switch v := o.Default.(type) {
	case string:
		return `"/another/value"`
	case bool:
		return fmt.Sprint(!v)
	case int:
		return fmt.Sprint(v + 1)
	case []string:
		return `["/another/value"]`
	case time.Duration:
		return `"7s"`
	default:
		return `{ "a" = "b" }`
	}
}

func TestEveryOptionIsHonouredOrNamed(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Options() {
		if seen[o.Key] {
			t.Errorf("%s is listed twice", o.Key)
		}
		seen[o.Key] = true
		if tables[o.Table()] == "" {
			t.Errorf("[%s] is not described", o.Table())
		}
		if o.Honoured() {
			if o.Doc == "" {
				t.Errorf("%s has no text", o.Key)
			}
			continue
		}
		text := fmt.Sprintf("[%s]\n%s = %s\n", strings.Replace(o.Table(), "*", "crun", 1), o.Name(), other(o))
		l := load(t, write(t, text, nil))
		want := strings.Replace(o.Key, "*", "crun", 1)
		if !strings.Contains(fmt.Sprint(l.Findings), want+" = ") || o.Why == "" {
			t.Errorf("%s is neither honoured nor named: %v", o.Key, l.Findings)
		}
	}
}

var commented = regexp.MustCompile(`(?m)^#([a-z_]+ = )`)

func TestThePrintedDefaultsReadBackAsTheDefaults(t *testing.T) {
	var out bytes.Buffer
	if err := Print(&out, Defaults()); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"as printed": out.String(), "with the comments taken off": commented.ReplaceAllString(out.String(), "$1"),
	} {
		l := load(t, write(t, text, nil))
		if len(l.Findings) != 0 || !reflect.DeepEqual(l.Config, Defaults()) {
			t.Errorf("%s: %+v\n%v", what, l.Config, l.Findings)
		}
	}
}

func TestAPrintedConfigurationReadsBackAsItself(t *testing.T) {
	l := load(t, write(t, `
[troupe]
run = "/tmp/\"q\"\\"
sweep_grace = "1h2m"
[crio.image]
pinned_images = ["a", "b*"]
[crio.runtime.runtimes."my.runtime"]
runtime_type = "libcontainer"
`, nil))
	var out bytes.Buffer
	if err := Print(&out, l.Config); err != nil {
		t.Fatal(err)
	}
	again := load(t, write(t, out.String(), nil))
	if !reflect.DeepEqual(l.Config, again.Config) {
		t.Errorf("printed\n%s\nread back as %+v", out.String(), again.Config)
	}
}

func TestReloadAppliesWhatItCanAndNamesWhatNeedsARestart(t *testing.T) {
	src := write(t, "[crio.runtime]\nlog_level = \"info\"\nhostnetwork_disable_selinux = true", nil)
	l := load(t, src)
	if err := os.WriteFile(src.File, []byte("[crio.runtime]\nlog_level = \"debug\"\nhostnetwork_disable_selinux = false"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, changes, err := l.Reload()
	if err != nil {
		t.Fatal(err)
	}
	if next.Runtime.LogLevel != "debug" || !next.Runtime.HostNetNoSELinux || l.Runtime.LogLevel != "info" {
		t.Errorf("next is %+v, old is %+v", next.Runtime, l.Runtime)
	}
	want := []Change{
		{Key: "crio.runtime.hostnetwork_disable_selinux", From: "true", To: "false"},
		{Key: "crio.runtime.log_level", From: `"info"`, To: `"debug"`, Live: true},
	}
	if !reflect.DeepEqual(changes, want) {
		t.Errorf("changes are %+v", changes)
	}
	if _, again, _ := next.Reload(); len(again) != 1 || again[0].Live {
		t.Errorf("a second reload finds %+v", again)
	}
	if err := os.WriteFile(src.File, []byte("[crio.runtime]\nlog_level = 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := next.Reload(); err == nil {
		t.Error("a broken file is accepted")
	}
}

func TestTheManualListsEveryOption(t *testing.T) {
	var out bytes.Buffer
	if err := Docs(&out); err != nil {
		t.Fatal(err)
	}
	for _, o := range Options() {
		if !strings.Contains(out.String(), "| `"+o.Name()+"` |") {
			t.Errorf("%s is not in it", o.Key)
		}
	}
}

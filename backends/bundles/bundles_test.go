package bundles

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

func TestConformance(t *testing.T) {
	conformance.Bundles(t, func(t *testing.T) conformance.BundlesHarness {
		b, err := New(Config{Root: t.TempDir(), Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		return conformance.BundlesHarness{
			Bundles: b,
			Rootfs:  func(t *testing.T, _, _ string) string { return rootfs(t) },
			Missing: filepath.Join(t.TempDir(), "missing"),
		}
	})
}

func TestAHalfWrittenBundleIsFoundAndRemoved(t *testing.T) {
	b := newTest(t, testNode(t))
	pod, c := conformance.ID(t), conformance.ID(t)
	put(t, filepath.Join(b.dir(pod, c), ".config.json-123"), "{")
	held, err := b.Held(context.Background())
	if err != nil || len(held) != 1 || held[0].Pod != pod || held[0].Container != c {
		t.Fatalf("%v %v", held, err)
	}
	if err := b.Drop(context.Background(), held[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(b.config.Root, "pods", pod)); err == nil {
		t.Error("the pod's directory is left behind")
	}
}

func TestRemovingABundleKeepsWhatOthersHaveInTheDirectory(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	_, out := written(t, b, r)
	put(t, filepath.Join(out.Dir, "record"), "x")
	put(t, filepath.Join(b.config.Root, "pods", r.Pod, "record"), "x")
	if err := b.Drop(context.Background(), b.held(r.Pod, r.Container)); err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{filepath.Join(out.Dir, "record"), filepath.Join(b.config.Root, "pods", r.Pod, "record")} {
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	}
}

func TestAnIdThatIsAPathIsRefused(t *testing.T) {
	b := newTest(t, testNode(t))
	for _, h := range []backends.Held{{Pod: "../x"}, {Pod: "p", Container: "../../etc"}, {}} {
		if err := b.Drop(context.Background(), h); messages.KindOf(err) != messages.Invalid {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

func TestAWrongConfigurationIsFoundAtTheStart(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	put(t, bad, "{")
	for name, change := range map[string]func(*Config){
		"relative root":      func(c *Config) { c.Root = "x" },
		"cgroup manager":     func(c *Config) { c.CgroupManager = "none" },
		"capability":         func(c *Config) { c.DefaultCapabilities = []string{"FLY"} },
		"ulimit name":        func(c *Config) { c.DefaultUlimits = []string{"nofiles=1:2"} },
		"ulimit order":       func(c *Config) { c.DefaultUlimits = []string{"nofile=3:2"} },
		"environment":        func(c *Config) { c.DefaultEnv = []string{"=x"} },
		"no such profile":    func(c *Config) { c.SeccompProfile = "/no/such.json" },
		"unreadable profile": func(c *Config) { c.SeccompProfile = bad },
		"device":             func(c *Config) { c.AdditionalDevices = []string{"/dev/null:/dev/x:q"} },
	} {
		c := Config{Root: t.TempDir(), Log: quiet()}
		change(&c)
		if _, err := newOn(testNode(t), c); messages.KindOf(err) != messages.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package config

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestARuntimeIsFoundByPlatformPathOrName(t *testing.T) {
	dir := t.TempDir()
	binary := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	named, mine, byName := binary("named"), binary("mine"), binary("by-name")
	t.Setenv("PATH", dir)
	l := load(t, write(t, `
[crio.runtime]
default_runtime = "by-name"
[crio.runtime.runtimes.by-name]
[crio.runtime.runtimes.named]
runtime_path = "`+named+`"
runtime_root = "/run/named"
[crio.runtime.runtimes.platform]
runtime_path = "`+named+`"
platform_runtime_paths = { "`+runtime.GOOS+"/"+runtime.GOARCH+`" = "`+mine+`", "plan9/mips" = "/other" }
[crio.runtime.runtimes.heir]
inherit_default_runtime = true
exec_cpu_affinity = "first"
[crio.runtime.runtimes.absent]
[crio.runtime.runtimes.elsewhere]
runtime_path = "/no/such/runtime"
`, nil))
	for name, want := range map[string]string{"by-name": byName, "named": named, "platform": mine, "heir": byName} {
		if path, err := l.FindRuntime(name); err != nil || path != want {
			t.Errorf("%s: %s, %v, want %s", name, path, err, want)
		}
	}
	for name, want := range map[string]string{"absent": "absent is not in $PATH", "elsewhere": "runtimes.elsewhere.runtime_path: /no/such/runtime does not exist"} {
		if _, err := l.FindRuntime(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestAHandlerHasCRIOsDefaults(t *testing.T) {
	l := load(t, write(t, "[crio.runtime]\ndefault_runtime = \"runc\"\n[crio.runtime.runtimes.x]\ncontainer_create_timeout = 5\ncontainer_min_memory = \"500KiB\"", nil))
	if h := l.Handlers["runc"]; h == nil || h.MinMemoryBytes() != 12<<20 || h.CreateTimeout() != 4*time.Minute || h.Builtin() {
		t.Errorf("runc, which CRI-O knows without a table: %+v", h)
	}
	if h := l.Handlers["x"]; h.MinMemoryBytes() != 500<<10 || h.CreateTimeout() != 30*time.Second {
		t.Errorf("x: %+v", h)
	}
	if h := l.Handlers[BuiltinHandler]; h.MinMemoryBytes() != 12<<20 || !h.Builtin() {
		t.Errorf("libcontainer: %+v", h)
	}
}

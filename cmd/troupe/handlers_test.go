package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/cmd/troupe/config"
)

// program is a runtime that answers --version and features.
func program(t *testing.T, version, features string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	body := fmt.Sprintf("#!/bin/sh\ncase $1 in --version) %s;; features) %s;; esac\n", version, features)
	if err := os.WriteFile(path, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHandlersAreOfferedAsTheirProgramsAre(t *testing.T) {
	c := config.Defaults()
	for name, path := range map[string]string{
		"new":    program(t, "echo runc version 1.3.0", `echo '{"mountOptions":["ro","rro"],"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}'`),
		"old":    program(t, "echo crun version 1.8.1", "exit 1"),
		"broken": program(t, "echo no libyajl >&2; exit 127", "exit 1"),
		"absent": "/no/such/program",
	} {
		c.Handlers[name] = &config.Handler{Path: path, MinMemory: "1MiB", Root: "/run/" + name}
	}
	c.Handlers["machine"] = &config.Handler{Type: config.TypeVM, Path: "/bin/true"}
	var log strings.Builder
	h, err := findHandlers(c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var offered []string
	for _, o := range h.offered {
		offered = append(offered, fmt.Sprintf("%s %v %d", o.Name, o.RecursiveReadOnly, o.MinMemory>>20))
	}
	if got := strings.Join(offered, ", "); got != "libcontainer true 12, new true 1, old false 1" {
		t.Errorf("offered: %s", got)
	}
	if new := h.runtimes["new"]; len(h.runtimes) != 2 || new.Kind != "runc" || new.Root != "/run/new" || h.runtimes["old"].Kind != "crun" {
		t.Errorf("runtimes: %+v", h.runtimes)
	}
	for name, why := range map[string]string{"absent": "does not exist", "broken": "no libyajl"} {
		if !strings.Contains(h.unusable[name], why) || !strings.Contains(log.String(), "handler="+name) {
			t.Errorf("%s: %q, log %s", name, h.unusable[name], log.String())
		}
	}
}

func TestTheDaemonDoesNotStartWithoutItsDefaultRuntime(t *testing.T) {
	c := config.Defaults()
	c.Runtime.DefaultHandler = "absent"
	c.Handlers["absent"] = &config.Handler{Path: "/no/such/program"}
	_, err := findHandlers(c, slog.New(slog.DiscardHandler))
	var bad *config.Error
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "default_runtime absent") || !strings.Contains(err.Error(), "install it there") {
		t.Errorf("%v", err)
	}
}

//go:build linux && cgo

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAFullDiskLeavesWholeLinesAndGoesOnWhenThereIsRoom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	var said bytes.Buffer
	l, err := openLog(filepath.Join(dir, "log"), slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	w := &lines{log: l, name: "stdout"}
	for range 10 {
		w.take([]byte(strings.Repeat("a line of a program\n", 50)))
	}
	data, err := os.ReadFile(l.path)
	if err != nil || len(data) < 1000 || data[len(data)-1] != '\n' || bytes.Count(data, []byte("\n"))%50 != 0 {
		t.Errorf("the file has %d bytes and %d lines (%v): not whole batches", len(data), bytes.Count(data, []byte("\n")), err)
	}
	if n := strings.Count(said.String(), "level=ERROR"); n != 1 {
		t.Errorf("told %d times: %s", n, said.String())
	}
	if err := os.Truncate(l.path, 0); err != nil {
		t.Fatal(err)
	}
	w.take([]byte("again\n"))
	data, _ = os.ReadFile(l.path)
	if !strings.HasSuffix(string(data), " stdout F again\n") || !strings.Contains(said.String(), "lostBytes=") {
		t.Errorf("%q; said %s", data, said.String())
	}
}

func TestSignalsAreReadAsImagesWriteThem(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN+3": 37, "RTMIN": 34, "SIGRTMAX-1": 63, "SIGRTMAX": 64,
	} {
		if got, err := parseSignal(name); err != nil || got != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "0", "65", "SIGNONE", "SIGRTMIN+40", "SIGRTMIN+x"} {
		if got, err := parseSignal(name); err == nil {
			t.Errorf("%q: %d", name, got)
		}
	}
}

package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestACPUProfileIsWholeWhenTheDaemonHasEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpu.pprof")
	stop, err := profileCPU(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	// The format's string table names what the samples count; gzip's checksum is its end.
	if text, err := io.ReadAll(z); err != nil || !bytes.Contains(text, []byte("nanoseconds")) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func TestAProfileThatCannotBeWrittenIsAnError(t *testing.T) {
	if _, err := profileCPU(filepath.Join(t.TempDir(), "absent", "cpu.pprof")); err == nil {
		t.Error("no error")
	}
}

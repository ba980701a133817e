//go:build linux && cgo

package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/backends/testlog"
	"golang.org/x/sys/unix"
)

// FuzzLyingDaemon serves a daemon that says what the input says: bytes, as they
// come or cut into frames of each request there is, with descriptors. The
// monitor does not panic, the connection ends with its client, no descriptor is
// left, and no process comes of it.
func FuzzLyingDaemon(f *testing.F) {
	ops := []string{
		wire.OpHello, wire.OpWatch, wire.OpCreate, wire.OpStart, wire.OpSignal, wire.OpState, wire.OpDelete, wire.OpExec, wire.OpReopen, wire.OpUpdate,
		wire.OpFreeze, wire.OpThaw, wire.OpDump, wire.OpCreateRestored, wire.OpList, wire.OpCancel, wire.OpExecStream, wire.OpAttach, wire.OpStdinDone, "dream",
	}
	for i := range ops {
		f.Add([]byte{byte(i), byte(i)}, []byte(`{"pod":"p","container":"c","id":2,"version":2,"signal":"TERM","limit":1,"command":["x"],"stdin":true,"stdout":true}`), byte(3), byte(i))
		f.Add([]byte{byte(i), byte(i), byte(i)}, []byte(`[]`), byte(9), byte(2))
	}
	f.Add([]byte{}, []byte("\x00\x00\x00\x04null\x02\xff\xff\xff{"), byte(1), byte(0))
	dir := f.TempDir()
	p := paths{dir: dir}
	if err := p.make(); err != nil {
		f.Fatal(err)
	}
	var log testlog.Log
	logger := slog.New(slog.NewTextHandler(&log, nil))
	l, err := newLoop(logger)
	if err != nil {
		f.Fatal(err)
	}
	m := newMonitor(p, false, 0, l, logger)
	go l.run()
	f.Fuzz(func(t *testing.T, script, body []byte, files, ids byte) {
		before := openFiles(t)
		client, server := pair(t)
		ended := make(chan struct{})
		go func() { serve(server, m, logger); close(ended) }()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		ask := func(data []byte) {
			_ = client.SetWriteDeadline(time.Now().Add(time.Second))
			_, _, _ = client.WriteMsgUnix(data, rights3(t, int(files%5)), nil)
		}
		hello, _ := wire.Encode(wire.Frame{ID: 1, Op: wire.OpHello}, wire.Hello{Version: wire.Version})
		ask(hello)
		for i, b := range script[:min(len(script), 64)] {
			frame, err := wire.Encode(wire.Frame{ID: uint64(i) % (1 + uint64(ids)), Op: ops[int(b)%len(ops)], Body: body}, nil)
			if err != nil {
				frame = body
			}
			ask(frame)
		}
		ask(body)
		_ = client.CloseWrite()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the connection does not end with its client")
		}
		client.Close()
		for end := time.Now().Add(5 * time.Second); openFiles(t) > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors were open, now %d", before, openFiles(t))
			}
		}
		if said := log.String(); strings.Contains(said, "panic") {
			t.Fatalf("a panic:\n%s", said)
		}
		// A create that failed leaves what delete takes back. One that was under way
		// when its client went may only be failing now.
		for end := time.Now().Add(5 * time.Second); m.count() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			for _, st := range m.list() {
				if st.Status == wire.Running || st.Pid != 0 {
					t.Fatalf("a process came of it: %+v", st)
				}
				_ = m.delete(t.Context(), st.Ref) // what counts is whether it has gone
			}
		}
		if n := m.count(); n > 0 {
			t.Errorf("%d containers are left", n)
		}
	})
}

// A connection that brings descriptors with requests that take none does not
// use up the monitor's.
func TestDescriptorsNobodyAskedForAreClosed(t *testing.T) {
	client, server := pair(t)
	defer client.Close()
	in := &receiver{nc: server}
	before := openFiles(t)
	for range 50 {
		if _, _, err := client.WriteMsgUnix([]byte("x"), rights3(t, 3), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if now := openFiles(t); now > before+maxFiles {
		t.Errorf("%d descriptors were open, now %d", before, now)
	}
	in.close()
	server.Close()
}

func TestTwoRequestsOfOneIDAreNotBothTaken(t *testing.T) {
	c := &conn{pending: map[uint64]context.CancelFunc{}, ctx: t.Context()}
	if _, err := c.admit(7); err != nil {
		t.Fatal(err)
	}
	if _, err := c.admit(7); err == nil {
		t.Error("a second request 7 is taken")
	}
	c.done(7)
	if _, err := c.admit(7); err != nil {
		t.Errorf("after its end: %v", err)
	}
	for id := uint64(100); id < 100+mostRequests-1; id++ {
		if _, err := c.admit(id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.admit(8); err == nil {
		t.Errorf("more than %d requests are taken", mostRequests)
	}
}

func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		nc, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = nc.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// rights3 passes on some of this process's own descriptors.
func rights3(t *testing.T, n int) (oob []byte) {
	if n == 0 {
		return nil
	}
	t.Helper()
	return unix.UnixRights([]int{0, 1, 2, 0}[:n]...)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

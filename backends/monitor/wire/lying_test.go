package wire_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// FuzzLyingMonitor puts the daemon's side before a monitor that says what the
// input says: other ids, other bodies, frames that do not end, descriptors that
// nobody asked for. Whatever it says, every call ends, no descriptor is left
// open, and no state is believed that cannot be.
func FuzzLyingMonitor(f *testing.F) {
	for lie := range lies {
		f.Add([]byte{honest, honest, byte(lie), byte(lie)}, []byte(`{"pod":"p","container":"c","status":"dreaming"}`))
		f.Add([]byte{honest, byte(lie), honest, byte(lie), honest, honest}, []byte(`[{"status":"exited"}]`))
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, script, body []byte) {
		before := openFiles(t)
		lied(t, script, body)
		for end := time.Now().Add(5 * time.Second); openFiles(t) > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors were open, now %d", before, openFiles(t))
			}
		}
	})
}

// lied has the client do one of each thing with a liar.
func lied(t *testing.T, script, body []byte) {
	dir, err := os.MkdirTemp("", "liar")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "monitor.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	liar := &liar{script: script, body: body}
	go liar.serve(l)

	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	c := monitor.New(monitor.Config{Binary: "/bin/false", Dir: dir, ReconnectWait: 20 * time.Millisecond})
	fact := func(st messages.ProcessState) {
		switch st.Status {
		case messages.ProcessCreated, messages.ProcessRunning, messages.ProcessExited, messages.ProcessGone:
		default:
			t.Errorf("an actor is told the state %q", st.Status)
		}
	}
	var calls sync.WaitGroup
	calls.Go(func() { _ = c.Connect(ctx, fact, func() {}) })
	calls.Go(func() {
		if st, err := c.State(ctx, "p", "c"); err == nil {
			fact(st)
			if st.Pod != "p" || st.Container != "c" {
				t.Errorf("asked for c of p, told of %q of %q", st.Container, st.Pod)
			}
		}
	})
	calls.Go(func() { _, _ = c.Exec(ctx, backends.ExecRequest{Pod: "p", Container: "c", Command: []string{"x"}}) })
	calls.Go(func() {
		r := backends.ExecStreamRequest{Pod: "p", Container: "c", Command: []string{"x"}}
		r.Stdin, r.Stdout, r.Stderr = new(endless), io.Discard, io.Discard
		_, _ = c.ExecStream(ctx, r)
	})
	calls.Go(func() {
		r := backends.AttachRequest{Pod: "p", Container: "c"}
		r.Stdout = io.Discard
		_ = c.Attach(ctx, r)
	})
	ended := make(chan struct{})
	go func() { calls.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("a call does not end")
	}
	cancel()
	l.Close()
	liar.wait.Wait()
}

// endless is a client's stdin that always has something.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.read > 1<<16 {
		return 0, io.EOF
	}
	return len(p), nil
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// liar answers each frame by the next byte of its script, all connections
// together.
type liar struct {
	mu     sync.Mutex
	script []byte
	body   []byte
	wait   sync.WaitGroup
}

func (l *liar) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.script) == 0 {
		return honest
	}
	b := l.script[0]
	l.script = l.script[1:]
	return int(b) % len(lies)
}

func (l *liar) serve(from *net.UnixListener) {
	for {
		nc, err := from.AcceptUnix()
		if err != nil {
			return
		}
		l.wait.Go(func() {
			defer nc.Close()
			for r := bufio.NewReader(nc); ; {
				f, err := wire.Read(r)
				if err != nil || !lies[l.next()](l, nc, f) {
					return
				}
			}
		})
	}
}

// honest is the answer of a monitor that has nothing to do.
const honest = 0

// lies are what may come for a frame; false closes the connection.
var lies = []func(l *liar, nc *net.UnixConn, f wire.Frame) bool{
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { // honest
		var v any
		switch f.Op {
		case wire.OpHello:
			v = wire.Hello{Version: wire.Version, Pid: 1}
		case wire.OpWatch, wire.OpList:
			v = []wire.State{}
		case wire.OpState:
			v = wire.State{Ref: wire.Ref{Pod: "p", Container: "c"}, Status: wire.Running}
		}
		return say(nc, wire.Frame{ID: f.ID}, v, 0)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { return l.say(nc, wire.Frame{ID: f.ID}, 0) },
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { return l.say(nc, wire.Frame{ID: f.ID + 1}, 0) },
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		first := l.say(nc, wire.Frame{ID: f.ID}, 0)
		return l.say(nc, wire.Frame{ID: f.ID}, 0) && first // twice
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		return say(nc, wire.Frame{ID: f.ID, Err: &wire.Error{Kind: string(l.body), Text: string(l.body)}}, nil, 0)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		return l.say(nc, wire.Frame{Op: wire.EventExit}, 0)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		return l.say(nc, wire.Frame{Op: wire.EventStarted}, 1)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		return say(nc, wire.Frame{Op: wire.EventStarted}, wire.Started{TTY: true}, 3) && say(nc, wire.Frame{Op: wire.EventStarted}, wire.Started{Stdin: true}, 2)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		return say(nc, wire.Frame{Op: wire.EventStarted}, wire.Started{Stdin: true}, 1) && say(nc, wire.Frame{ID: f.ID}, wire.ExecEnd{ExitCode: -1}, 1)
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { return l.say(nc, wire.Frame{ID: f.ID}, 8) },
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { // a frame that does not come
		_, err := nc.Write([]byte{2, 0, 0, 0, '{'})
		return err == nil
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool {
		_, err := nc.Write(l.body)
		return err == nil
	},
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { return false },
	func(l *liar, nc *net.UnixConn, f wire.Frame) bool { return true }, // silence
}

// say sends the input's body, if it is a body at all.
func (l *liar) say(nc *net.UnixConn, f wire.Frame, files int) bool {
	if !json.Valid(l.body) {
		_, err := nc.Write(l.body)
		return err == nil
	}
	f.Body = l.body
	return say(nc, f, nil, files)
}

func say(nc *net.UnixConn, f wire.Frame, v any, files int) bool {
	data, err := wire.Encode(f, v)
	if err != nil {
		return false
	}
	var oob []byte
	for range files {
		null, err := os.Open("/dev/null")
		if err != nil {
			return false
		}
		defer null.Close()
		oob = append(oob, unix.UnixRights(int(null.Fd()))...)
	}
	_, _, err = nc.WriteMsgUnix(data, oob, nil)
	return err == nil
}

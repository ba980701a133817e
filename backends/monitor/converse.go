package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// converse is one session on a connection of its own: the request with its
// descriptors, the start, the copying, the answer. The end of ctx ends the
// connection, and with it what the monitor does for it.
func (c *Client) converse(ctx context.Context, l *link, op string, request any) (json.RawMessage, error) {
	s, err := c.connected(ctx) // one that is being made is waited for, an absent monitor said
	if err != nil {
		return nil, err
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket())
	if err != nil {
		return nil, lost(ctx, s.monitorPid, err)
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	t := &talk{nc: nc.(*net.UnixConn), fd: -1}
	defer t.closeFd()
	t.r = bufio.NewReader(t)
	var hello wire.Hello
	if err := t.ask(wire.OpHello, wire.Hello{Version: wire.Version}, &hello, nil); err != nil {
		return nil, lost(ctx, s.monitorPid, err)
	}
	failpoint.Hit("monitor", op, "before")
	defer failpoint.Hit("monitor", op, "after")
	if err := t.send(wire.Frame{ID: 2, Op: op}, request, l); err != nil {
		return nil, lost(ctx, hello.Pid, err)
	}
	for began := false; ; {
		f, err := wire.Read(t.r)
		switch {
		case err != nil && t.over.Load():
			return nil, nil
		case err != nil:
			return nil, lost(ctx, hello.Pid, err)
		case f.Op == wire.EventStarted && began:
			return nil, messages.Errorf(messages.Unavailable, "the session with troupe-monitor (pid %d) is broken: it was begun twice", hello.Pid)
		case f.Op == wire.EventStarted:
			began = true
			var started wire.Started
			if err := json.Unmarshal(f.Body, &started); err != nil {
				return nil, fmt.Errorf("decode the start of a session: %w", err)
			}
			if err := l.accept(started, t.takeFd()); err != nil {
				return nil, fmt.Errorf("the descriptors of a session: %w", err)
			}
			l.run(ctx, func() { t.stdinDone(l) })
		case f.ID == 2:
			if f.Err == nil {
				l.drain(ctx)
			}
			return result(f)
		}
	}
}

// lost says that a session ended with its connection.
func lost(ctx context.Context, pid int, err error) error {
	if ctx.Err() != nil {
		return messages.Errorf(messages.Canceled, "the client has gone, or troupe ends: %w", ctx.Err())
	}
	return messages.Errorf(messages.Unavailable, "the session with troupe-monitor (pid %d) was cut off: %w", pid, err)
}

// talk reads and writes frames and what descriptors come with them.
type talk struct {
	nc *net.UnixConn
	r  *bufio.Reader
	fd int // came with a frame; -1: none

	write sync.Mutex
	over  atomic.Bool // we have ended the session
}

// stdinDone tells the monitor that the client's stdin has ended. An attach that
// has nothing else ends with it.
func (t *talk) stdinDone(l *link) {
	if !l.attach {
		return // the end of the pipe has told it
	}
	err := t.send(wire.Frame{Op: wire.OpStdinDone}, nil, nil)
	if err != nil || len(l.sources) == 0 {
		t.over.Store(err == nil)
		_ = t.nc.Close()
	}
}

func (t *talk) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := t.nc.ReadMsgUnix(p, oob)
	if err != nil {
		return 0, err
	}
	if parsed, parseErr := unix.ParseSocketControlMessage(oob[:oobn]); parseErr == nil {
		for _, m := range parsed {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				t.keep(fds)
			}
		}
	}
	return n, nil
}

// keep keeps the one descriptor that a session can have; others are closed.
func (t *talk) keep(fds []int) {
	for _, fd := range fds {
		if t.fd < 0 {
			t.fd = fd
		} else {
			_ = unix.Close(fd)
		}
	}
}

// takeFd hands the descriptor over; -1: there is none.
func (t *talk) takeFd() int {
	fd := t.fd
	t.fd = -1
	return fd
}

func (t *talk) closeFd() {
	if fd := t.takeFd(); fd >= 0 {
		_ = unix.Close(fd)
	}
}

// send writes a frame; the descriptors for the monitor go with its first byte.
func (t *talk) send(f wire.Frame, v any, l *link) error {
	data, err := wire.Encode(f, v)
	if err != nil {
		return err
	}
	var oob []byte
	if l != nil && len(l.theirs) > 0 {
		fds := make([]int, len(l.theirs))
		for i, file := range l.theirs {
			fds[i] = int(file.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	t.write.Lock()
	defer t.write.Unlock()
	if err := t.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	n, _, err := t.nc.WriteMsgUnix(data, oob, nil)
	if err == nil && n < len(data) {
		_, err = t.nc.Write(data[n:])
	}
	return err
}

func (t *talk) ask(op string, v, answer any, l *link) error {
	if err := t.send(wire.Frame{ID: 1, Op: op}, v, l); err != nil {
		return err
	}
	f, err := wire.Read(t.r)
	if err != nil {
		return err
	}
	body, err := result(f)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, answer)
}

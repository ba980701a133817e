//go:build linux && cgo

package main

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// conn is one daemon's connection.
type conn struct {
	m   *monitor
	log *slog.Logger
	nc  *net.UnixConn
	ctx context.Context // ends with the connection
	end context.CancelFunc
	out chan []byte // frames to be written

	mu      sync.Mutex
	pending map[uint64]context.CancelFunc // requests that can be canceled
	running int                           // requests that have not ended
}

const (
	// outQueue is how many frames may wait for a daemon that reads slowly;
	// with the next event it is dropped, and reads the truth when it is back.
	outQueue     = 4096
	writeTimeout = 30 * time.Second
	// mostRequests is how many may be under way for a connection. The daemon's
	// lanes let through some hundreds.
	mostRequests = 4096
)

// serve reads requests until the connection ends.
func serve(nc *net.UnixConn, m *monitor, log *slog.Logger) {
	c := &conn{m: m, log: log, nc: nc, pending: map[uint64]context.CancelFunc{}}
	c.ctx, c.end = context.WithCancel(context.Background())
	defer m.thawOf(c)
	defer m.unwatch(c)
	defer c.close()
	if err := checkPeer(nc); err != nil {
		log.Error("connection refused", "err", err)
		return
	}
	in := &receiver{nc: nc}
	defer in.close()
	r := bufio.NewReader(in)
	f, err := wire.Read(r)
	if err != nil || !c.hello(f) {
		return
	}
	if f, err = wire.Read(r); err == nil && isSession(f.Op) {
		c.session(f, in, r)
		return
	}
	c.out = make(chan []byte, outQueue)
	m.guard("write to a connection", c.write)
	for err == nil {
		c.request(f)
		f, err = wire.Read(r)
	}
}

// checkPeer lets in root and who runs the monitor; the socket's mode says the
// same, this holds also when somebody has changed it.
func checkPeer(nc *net.UnixConn) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return errors.New("the peer is not root")
	}
	return nil
}

// hello answers the first frame. A daemon of another version is told so, with
// our version, and let go.
func (c *conn) hello(f wire.Frame) bool {
	failpoint.Hit("handle", wire.OpHello, "before")
	defer failpoint.Hit("handle", wire.OpHello, "after")
	var err error
	_, decodeErr := with(f.Body, func(h wire.Hello) (any, error) {
		if f.Op != wire.OpHello || h.Version != wire.Version {
			err = failf(wire.Precondition, "this monitor (pid %d) speaks version %d of the protocol, the client %d", os.Getpid(), wire.Version, h.Version)
		}
		return nil, nil
	})
	err = errors.Join(err, decodeErr)
	data, encodeErr := reply(f.ID, wire.Hello{Version: wire.Version, Pid: os.Getpid()}, err)
	if encodeErr == nil { // at once: after a refusal the connection ends
		_, encodeErr = c.nc.Write(data)
	}
	return err == nil && encodeErr == nil
}

// request starts a request; each has a goroutine of its own, so that none
// waits for another.
func (c *conn) request(f wire.Frame) {
	switch f.Op {
	case wire.OpCancel:
		_, _ = with(f.Body, func(r wire.Cancel) (any, error) {
			c.cancel(r.ID)
			return nil, nil
		})
		return
	case wire.OpWatch:
		failpoint.Hit("handle", f.Op, "before")
		c.m.watch(c, f.ID)
		failpoint.Hit("handle", f.Op, "after")
		return
	case wire.OpUpgrade:
		c.m.guard("request "+f.Op, func() { c.m.makeRoom(c, f.ID) })
		return
	case wire.OpQuit:
		failpoint.Hit("handle", f.Op, "before")
		if !c.m.tryQuit() {
			c.answer(f.ID, nil, failf(wire.Precondition, "the monitor stays: it has %d containers", c.m.count()))
			return
		}
		failpoint.Hit("handle", f.Op, "after")
		c.answer(f.ID, nil, nil)
		c.m.endSoon()
		return
	}
	ctx, err := c.admit(f.ID)
	if err != nil {
		c.answer(f.ID, nil, err)
		return
	}
	c.m.guard("request "+f.Op, func() {
		defer c.done(f.ID)
		c.m.steps.RLock()
		defer c.m.steps.RUnlock()
		answered := false
		defer func() {
			if !answered { // a panic
				c.answer(f.ID, nil, failf(wire.Internal, "the monitor failed in %q; its log has the stack", f.Op))
			}
		}()
		v, err := c.handle(ctx, f)
		answered = true
		c.answer(f.ID, v, err)
	})
}

// admit takes a request in, or says why not. Two of one id could not be told
// apart: the end of the one would be that of the other.
func (c *conn) admit(id uint64) (context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch _, there := c.pending[id]; {
	case there:
		return nil, failf(wire.Invalid, "there is a request %d already", id)
	case c.running >= mostRequests:
		return nil, failf(wire.Busy, "%d requests are under way, which is the limit", c.running)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.pending[id] = cancel
	c.running++
	return ctx, nil
}

// done is the end of a request that was admitted.
func (c *conn) done(id uint64) {
	c.cancel(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
}

func (c *conn) cancel(id uint64) {
	c.mu.Lock()
	cancel := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// answer queues the reply to a request; it waits while the queue is full.
func (c *conn) answer(id uint64, v any, err error) {
	data, err := reply(id, v, err)
	if err != nil {
		c.log.Error("an answer cannot be sent", "err", err)
		return
	}
	select {
	case c.out <- data:
	case <-c.ctx.Done():
	}
}

func reply(id uint64, v any, err error) ([]byte, error) {
	f := wire.Frame{ID: id}
	if err != nil {
		v = nil
		if !errors.As(err, &f.Err) {
			f.Err = &wire.Error{Kind: wire.Internal, Text: err.Error()}
		}
	}
	return wire.Encode(f, v)
}

// event queues an event and never waits.
func (c *conn) event(op string, v any) {
	data, err := wire.Encode(wire.Frame{Op: op}, v)
	if err != nil {
		c.log.Error("an event cannot be sent", "err", err)
		return
	}
	select {
	case c.out <- data:
	case <-c.ctx.Done():
	default:
		c.log.Warn("the daemon does not read what happens: its connection is closed")
		c.close()
	}
}

func (c *conn) write() {
	defer c.close()
	for {
		select {
		case data := <-c.out:
			if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return
			}
			if _, err := c.nc.Write(data); err != nil {
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *conn) close() {
	c.end()
	c.nc.Close()
}

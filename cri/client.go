package cri

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type tlsConn = tls.Conn

// client is the connection of a session's client. Neither HTTP nor the
// protocols above it tell a session that its client has gone: it would run on
// for nobody. Here a connection that ends, however it does, ends the context of
// its request.
type client struct {
	net.Conn
	of    *clients
	mu    sync.Mutex
	leave context.CancelFunc
	left  bool
}

// clients are all connections there are.
type clients struct {
	mu  sync.Mutex
	all map[*client]struct{}
}

type listener struct {
	net.Listener
	clients *clients
}

func (c *clients) listen(l net.Listener) net.Listener { return listener{l, c} }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, of: l.clients}
	l.clients.mu.Lock()
	defer l.clients.mu.Unlock()
	if l.clients.all == nil {
		l.clients.all = map[*client]struct{}{}
	}
	l.clients.all[c] = struct{}{}
	return c, nil
}

// withClient makes the context of a connection's requests (http.Server.ConnContext).
func withClient(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*client)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.leave = cancel
	left := c.left
	c.mu.Unlock()
	if left {
		cancel()
	}
	return ctx
}

// gone is called when nothing will come from the client any more.
func (c *client) gone() {
	c.mu.Lock()
	leave := c.leave
	c.left = true
	c.mu.Unlock()
	if leave != nil {
		leave()
	}
}

// Read implements net.Conn. A deadline is not an end: net/http sets one to get
// the connection back from its own reader.
func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	return n, err
}

// Write implements net.Conn.
func (c *client) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	return n, err
}

// Close implements net.Conn.
func (c *client) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	c.gone()
	return c.Conn.Close()
}

// hungUp asks the kernel whether the other side has closed. It is for when
// nobody reads: a client whose stdin the container does not take any more sends
// into full buffers, and its end stands behind them.
func (c *client) hungUp() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	var events int16
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			events = p[0].Revents
		}
	})
	return events&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

func (c *clients) list() []*client {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*client, 0, len(c.all))
	for one := range c.all {
		all = append(all, one)
	}
	return all
}

// hangUpEvery is how often all clients are looked at. One that was found gone
// twice has had time to deliver what it had sent.
const hangUpEvery = 2 * time.Second

// watch ends the sessions of clients that have hung up, until ctx ends.
func (c *clients) watch(ctx context.Context) {
	tick := time.NewTicker(hangUpEvery)
	defer tick.Stop()
	before := map[*client]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := map[*client]bool{}
		for _, one := range c.list() {
			if !one.hungUp() {
				continue
			}
			now[one] = true
			if before[one] {
				one.gone()
			}
		}
		before = now
	}
}

// cut closes every connection.
func (c *clients) cut() {
	for _, one := range c.list() {
		_ = one.Close()
	}
}

// takeover notes whether a session took its connection over. Then it is ours to
// close when the session has ended: cri-streaming leaves it open when a client
// asks for an upgrade and then opens no streams.
type takeover struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := t.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	conn, rw, err := h.Hijack()
	t.conn = conn
	return conn, rw, err
}

// Unwrap is for http.ResponseController.
func (t *takeover) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *takeover) close() {
	if t.conn != nil {
		_ = t.conn.Close()
	}
}

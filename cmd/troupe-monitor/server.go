//go:build linux && cgo

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// server accepts daemons on the socket. There is one at a time, but the next
// may connect before the end of the last was noticed.
type server struct {
	m        *monitor
	log      *slog.Logger
	path     string
	listener *net.UnixListener
}

// listen goes on with the socket of an earlier monitor, in whose queue clients
// may wait, or replaces it; the lock is ours.
func listen(path string, m *monitor, log *slog.Logger) (*server, error) {
	s := &server{m: m, log: log, path: path}
	if m.socketFile != nil {
		if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
			return s, s.use()
		}
		m.socketFile.Close() // nobody would find it
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	old := unix.Umask(0o177) // nobody else may connect, from the first moment
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer l.Close() // of a listener Go closes two descriptors: the keeper's copy is of the other
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	m.holdSocket(f)
	return s, s.use()
}

// holdSocket keeps the descriptor of the socket, for the keeper. Its number is
// taken down now: later Fd would make the listener blocking.
func (m *monitor) holdSocket(f *os.File) {
	m.socketFile, m.socketFd = f, descriptor(f)
}

func (s *server) use() error {
	l, err := net.FileListener(s.m.socketFile)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.listener = l.(*net.UnixListener)
	return nil
}

func (s *server) accept() {
	for {
		nc, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("a connection cannot be accepted", "err", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		s.m.guard("serve a connection", func() { serve(nc, s.m, s.log) })
	}
}

func (s *server) close() {
	s.listener.Close()
	if err := os.Remove(s.path); err != nil {
		s.log.Warn("the socket stays", "err", err)
	}
}

// caught is deferred where a panic must not end the monitor.
func caught(log *slog.Logger, what string) {
	if r := recover(); r != nil {
		log.Error("a bug: panic", "in", what, "panic", r, "stack", string(debug.Stack()))
	}
}

// handle does one request.
func (m *monitor) handle(ctx context.Context, op string, body json.RawMessage) (any, error) {
	switch op {
	case wire.OpCreate:
		return with(body, func(r wire.Create) (any, error) { return m.create(ctx, r) })
	case wire.OpCreateRestored:
		return with(body, func(r wire.Create) (any, error) {
			if !filepath.IsAbs(r.Images) {
				return nil, failf(wire.Invalid, "create container %s: %q is no directory of images", r.Key(), r.Images)
			}
			return m.create(ctx, r)
		})
	case wire.OpStart:
		return with(body, func(r wire.Ref) (any, error) {
			c, err := m.mustFind(r)
			if err != nil {
				return nil, err
			}
			return c.start(ctx)
		})
	case wire.OpSignal:
		return with(body, m.signal)
	case wire.OpState:
		return with(body, func(r wire.Ref) (any, error) {
			if c := m.find(r); c != nil {
				return c.state(), nil
			}
			return wire.State{Ref: r, Status: wire.Gone}, nil
		})
	case wire.OpDelete:
		return with(body, func(r wire.Ref) (any, error) { return nil, m.delete(ctx, r) })
	case wire.OpExec:
		return with(body, func(r wire.Exec) (any, error) { return m.exec(ctx, r) })
	case wire.OpReopen:
		return with(body, func(r wire.Ref) (any, error) {
			c, err := m.mustFind(r)
			if err != nil {
				return nil, err
			}
			return nil, c.reopenLog()
		})
	case wire.OpUpdate:
		return with(body, func(r wire.Update) (any, error) { return nil, m.update(ctx, r) })
	case wire.OpDump:
		return with(body, func(r wire.Dump) (any, error) { return nil, m.dump(ctx, r) })
	case wire.OpThaw:
		return with(body, func(r wire.Freeze) (any, error) { return nil, m.thaw(r) })
	case wire.OpList:
		return m.list(), nil
	}
	return nil, failf(wire.Invalid, "the monitor does not know the request %q", op)
}

// with decodes what is asked.
func with[T any](body json.RawMessage, f func(T) (any, error)) (any, error) {
	var r T
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, failf(wire.Invalid, "decode a request: %v", err)
	}
	return f(r)
}

func (m *monitor) signal(r wire.Signal) (any, error) {
	sig, err := parseSignal(r.Signal)
	if err != nil {
		return nil, err
	}
	c := m.find(r.Ref)
	if c == nil {
		return nil, nil
	}
	return nil, c.signal(sig, r.All)
}

// parseSignal reads "SIGTERM", "TERM", "15" and "SIGRTMIN+3", as image
// configurations have them.
func parseSignal(name string) (unix.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if sig := unix.SignalNum(full); sig != 0 {
		return sig, nil
	}
	const rtmin, rtmax = 34, 64 // glibc's and musl's
	if rest, ok := strings.CutPrefix(full, "SIGRTMIN"); ok {
		n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+"))
		if err == nil && rtmin+n <= rtmax {
			return unix.Signal(rtmin + n), nil
		}
	}
	if rest, ok := strings.CutPrefix(full, "SIGRTMAX"); ok {
		n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "-"))
		if err == nil && rtmax-n >= rtmin {
			return unix.Signal(rtmax - n), nil
		}
	}
	return 0, failf(wire.Invalid, "no such signal: %q", name)
}

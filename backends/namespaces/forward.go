package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// dialLimit is how long a port of the loopback may take to accept.
const dialLimit = 10 * time.Second

// Forward joins the stream to a port of the pod's loopback.
func (b *Backend) Forward(ctx context.Context, r backends.ForwardRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Gone != nil {
		go func() {
			select {
			case <-r.Gone:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	conn, err := b.dial(ctx, r)
	if err != nil {
		return err
	}
	return join(ctx, conn, r.Stream)
}

// dial tries IPv4, then IPv6, as the kubelet's users expect of "localhost".
func (b *Backend) dial(ctx context.Context, r backends.ForwardRequest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		address := net.JoinHostPort(host, strconv.Itoa(int(r.Port)))
		conn, err := dialIn(ctx, r.NetNS, host, address, r.Port)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
		if ctx.Err() != nil {
			break
		}
	}
	err := errors.Join(errs...)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, messages.Errorf(messages.Precondition, "pod %s has no network any more: %w", r.Pod, err)
	case errors.Is(err, context.Canceled): // it says nothing of the port
		return nil, fmt.Errorf("connect to port %d of pod %s: %w", r.Port, r.Pod, err)
	}
	return nil, messages.Errorf(messages.Unavailable, "nothing accepts connections on port %d in pod %s: %w", r.Port, r.Pod, err)
}

func dialIn(ctx context.Context, netns, host, address string, port int32) (net.Conn, error) {
	if netns == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}})
	if host == "::1" {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}
	}
	fd, err := socketIn(netns, family)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close() // FileConn duplicates it
	if err := connect(ctx, fd, to); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// socketIn makes a socket in a namespace. It stays in it wherever it is used:
// only the making needs a thread that has been there.
func socketIn(netns string, family int) (fd int, err error) {
	ns, err := os.Open(netns)
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	thread.ThrownAway(func() {
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace %s: %w", netns, err)
			return
		}
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("socket: %w", err)
		}
	})
	return fd, err
}

// connect waits in small portions, because poll(2) knows no context.
func connect(ctx context.Context, fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if err == nil || !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n == 0 || err != nil {
			continue
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return err
	}
}

// halfCloser is a connection whose writing side can be ended alone.
type halfCloser interface{ CloseWrite() error }

// join copies both ways. The end of what the client sends is passed on, and the
// answer still comes; the end of what the pod sends ends it all, because the
// client's protocols cannot say it otherwise.
func join(ctx context.Context, conn net.Conn, stream io.ReadWriteCloser) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() {
		if _, err := io.Copy(conn, stream); err == nil {
			if h, ok := conn.(halfCloser); ok {
				_ = h.CloseWrite()
				return
			}
		}
		_ = conn.Close() // the client cannot be heard any more, or the pod does not listen
	}()
	_, err := io.Copy(stream, conn)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNRESET), errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

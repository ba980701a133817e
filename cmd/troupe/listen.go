package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode: whoever can write to a CRI socket is root on the node.
const socketMode = 0o600

// checkFree makes sure that nobody serves on the socket, and changes nothing.
func checkFree(path string) error {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another process answers already on %s; stop it (is it crio or another troupe?), or set another socket", path)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket; move it away, or set another socket", path)
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil // left behind by a daemon that was killed
	}
	return fmt.Errorf("cannot tell whether %s is in use: %w; remove it if nobody uses it", path, err)
}

// listen makes the socket, root's alone from its first moment on. A stale one
// is replaced. Closing the listener removes it.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("%w; set another socket", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The kernel takes the mode of a new socket file from the socket's own
	// inode (unix_bind in net/unix/af_unix.c), so there is no moment at which
	// others could connect, as there would be before a chmod.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, failed)
	}}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; set another socket", path, err)
	}
	return l, nil
}

//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fifo is where a created container's init waits (libcontainer's exec fifo).
func (p paths) fifo(key string) string { return filepath.Join(p.state(), key, "exec.fifo") }

// releaseFifo lets a created init go on to the user's command: it opens the
// fifo, gets the one byte that init writes, and removes the fifo, whose absence
// tells libcontainer that the container was started. It does what
// (*libcontainer.Container).Exec does, without a goroutine that blocks in
// open for ever when init dies first, and it ends with ctx.
func releaseFifo(ctx context.Context, path string, over <-chan struct{}) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the exec fifo: %w", err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for init: %w", err)
		}
		var b [1]byte
		if n > 0 {
			if got, err := unix.Read(fd, b[:]); err == nil && got == 1 {
				if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return nil
			}
		}
		select {
		case <-over:
			return errors.New("its init process ended before it was started")
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
}

//go:build linux && cgo

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// endWatch tells the end of a child of ours that is not reaped yet.
type endWatch struct {
	loop  *loop
	pidfd int
	token uint64
	ended chan struct{}
}

func (l *loop) watchEnd(pid int) (*endWatch, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	w := &endWatch{loop: l, pidfd: fd, ended: make(chan struct{})}
	// One shot: the first report is the only one, and close drops the watch.
	if w.token, err = l.add(fd, unix.EPOLLIN|unix.EPOLLONESHOT, func(uint32, []byte) { close(w.ended) }); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return w, nil
}

func (w *endWatch) close() {
	w.loop.drop(w.pidfd, w.token)
	unix.Close(w.pidfd)
}

// captured is what a command prints.
type captured struct {
	stdout, stderr *stream
	out, err       *capture
}

func (c *captured) open(l *loop, ends *stdio) (err error) {
	if c.stdout, err = openStream(l, ends.stdout, c.out); err != nil {
		return err
	}
	ends.stdout = nil
	if c.stderr, err = openStream(l, ends.stderr, c.err); err != nil {
		return err
	}
	ends.stderr = nil
	return nil
}

// output is what was captured once the streams have ended, or captureLinger has passed.
func (c *captured) output(ctx context.Context) (stdout, stderr []byte) {
	c.stdout.drain()
	c.stderr.drain()
	limit := time.NewTimer(captureLinger)
	defer limit.Stop()
	for _, s := range []*stream{c.stdout, c.stderr} {
		select {
		case <-s.done:
			continue
		case <-limit.C:
		case <-ctx.Done():
		}
		break
	}
	c.close()
	return c.out.bytes(), c.err.bytes()
}

func (c *captured) close() {
	c.stdout.stop()
	c.stderr.stop()
}

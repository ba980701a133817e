//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"
)

// loop is the one epoll loop that watches all pidfds, stdio pipes and cgroup
// event files: a container costs descriptors here, but no goroutine, thread or
// buffer. Handlers run one after another, level-triggered, so each does one
// read's worth of work and nothing that may block for long.
type loop struct {
	log  *slog.Logger
	epfd int

	mu    sync.Mutex
	next  uint64
	watch map[uint64]func(events uint32, buf []byte)
}

// readSize is the size of the one buffer that all handlers read into.
const readSize = 64 << 10

func newLoop(log *slog.Logger) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{log: log, epfd: fd, watch: map[uint64]func(uint32, []byte){}}, nil
}

// add calls handler whenever fd has one of the events, until drop. Tokens are
// never used twice, so an event that was fetched before a drop finds nobody
// instead of the next owner of the same descriptor number.
func (l *loop) add(fd int, events uint32, handler func(events uint32, buf []byte)) (token uint64, err error) {
	l.mu.Lock()
	l.next++
	token = l.next
	l.watch[token] = handler
	l.mu.Unlock()
	ev := unix.EpollEvent{Events: events, Fd: int32(token), Pad: int32(token >> 32)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		l.forget(token)
		return 0, fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return token, nil
}

// drop ends the watch of an open descriptor; to be called before it is closed.
func (l *loop) drop(fd int, token uint64) {
	l.forget(token)
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil && !errors.Is(err, unix.ENOENT) {
		l.log.Error("cannot end the watch of a descriptor", "fd", fd, "err", err)
	}
}

func (l *loop) forget(token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watch, token)
}

func (l *loop) run() {
	buf := make([]byte, readSize)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(l.epfd, events, -1)
		if err != nil {
			if !errors.Is(err, unix.EINTR) {
				l.log.Error("epoll_wait", "err", err)
			}
			continue
		}
		for _, ev := range events[:n] {
			token := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			l.mu.Lock()
			handler := l.watch[token]
			l.mu.Unlock()
			if handler != nil {
				l.call(handler, ev.Events, buf)
			}
		}
	}
}

// call keeps a handler's panic from ending the parent of all containers.
func (l *loop) call(handler func(uint32, []byte), events uint32, buf []byte) {
	defer caught(l.log, "the event loop")
	handler(events, buf)
}

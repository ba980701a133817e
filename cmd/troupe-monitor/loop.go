//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loop is the one epoll loop that watches all pidfds, stdio pipes and cgroup
// event files: a container costs descriptors here, but no goroutine, thread or
// buffer. Handlers run one after another, level-triggered, so each does one
// read's worth of work. One that a dead disk holds up lends its place to another
// goroutine, and is not watched until it returns: nobody else may notice.
type loop struct {
	log  *slog.Logger
	epfd int

	mu    sync.Mutex
	next  uint64
	watch map[uint64]*watched
	batch []unix.EpollEvent // fetched, and not handled yet
	turn  *turn             // what the goroutine that runs the loop is at; nil: it waits
	timer *time.Timer       // looks at turn
	armed bool
}

type watched struct {
	fd      int
	event   unix.EpollEvent
	handler func(events uint32, buf []byte)
}

// turn is one call of a handler.
type turn struct {
	of    *watched
	token uint64
	began time.Time
	lent  bool // another goroutine runs the loop by now
}

// lendAfter is how long a handler may keep all others waiting.
const lendAfter = time.Second

// readSize is the size of the one buffer that all handlers read into.
const readSize = 64 << 10

func newLoop(log *slog.Logger) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &loop{log: log, epfd: fd, watch: map[uint64]*watched{}}
	l.timer = time.AfterFunc(lendAfter, l.look)
	l.armed = true
	return l, nil
}

// add calls handler whenever fd has one of the events, until drop. Tokens are
// never used twice, so an event that was fetched before a drop finds nobody
// instead of the next owner of the same descriptor number.
func (l *loop) add(fd int, events uint32, handler func(events uint32, buf []byte)) (token uint64, err error) {
	l.mu.Lock()
	l.next++
	token = l.next
	w := &watched{fd: fd, event: unix.EpollEvent{Events: events, Fd: int32(token), Pad: int32(token >> 32)}, handler: handler}
	l.watch[token] = w
	l.mu.Unlock()
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &w.event); err != nil {
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
		t, what := l.begin()
		if t == nil {
			l.fetch(events)
			continue
		}
		l.call(t.of.handler, what, buf)
		if l.end(t) {
			return
		}
	}
}

func (l *loop) fetch(events []unix.EpollEvent) {
	n, err := unix.EpollWait(l.epfd, events, -1)
	if err != nil {
		if !errors.Is(err, unix.EINTR) {
			l.log.Error("epoll_wait", "err", err)
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch = events[:n]
}

// begin takes the next event of the batch; nil: there is none.
func (l *loop) begin() (t *turn, events uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.batch) > 0 {
		ev := l.batch[0]
		l.batch = l.batch[1:]
		token := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
		if w := l.watch[token]; w != nil {
			l.turn = &turn{of: w, token: token, began: time.Now()}
			if !l.armed {
				l.armed = true
				l.timer.Reset(lendAfter)
			}
			return l.turn, ev.Events
		}
	}
	return nil, 0
}

// end ends a turn. Who has lent the loop leaves it to the other.
func (l *loop) end(t *turn) (lent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.lent {
		l.turn = nil
		return false
	}
	l.log.Warn("who held up the event loop goes on", "fd", t.of.fd, "after", time.Since(t.began).Round(time.Millisecond))
	if l.watch[t.token] == t.of {
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, t.of.fd, &t.of.event); err != nil {
			l.log.Error("a descriptor is not watched any more", "fd", t.of.fd, "err", err)
		}
	}
	return true
}

// look has another goroutine go on when a handler does not return. It looks
// again for as long as there is something to do.
func (l *loop) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turn
	if t == nil {
		l.armed = false
		return
	}
	wait := lendAfter - time.Since(t.began)
	if wait <= 0 {
		l.lend(t)
		wait = lendAfter
	}
	l.timer.Reset(wait)
}

// lend starts the goroutine; l.mu is held.
func (l *loop) lend(t *turn) {
	l.log.Warn("the event loop is held up, by a disk that does not answer for example: all others go on without", "fd", t.of.fd)
	t.lent, l.turn = true, nil
	if l.watch[t.token] == t.of { // or the other would be called for it without end
		if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, t.of.fd, nil); err != nil {
			l.log.Error("cannot pause the watch of a descriptor", "fd", t.of.fd, "err", err)
		}
	}
	l.batch = slices.Clone(l.batch) // it lies in the memory of who is held up
	go l.run()
}

// call keeps a handler's panic from ending the parent of all containers.
func (l *loop) call(handler func(uint32, []byte), events uint32, buf []byte) {
	defer caught(l.log, "the event loop")
	handler(events, buf)
}

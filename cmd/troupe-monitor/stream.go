//go:build linux && cgo

package main

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLine is how many bytes of content a log record may have; longer lines are
// split into P parts with an F at the end (the kubelet's and both peers' limit).
const maxLine = 16 << 10

// stream is the reading end of a process's stdout, stderr or terminal. What
// is read goes to sink; the pipe is closed at its end.
type stream struct {
	loop  *loop
	sink  sink
	done  chan struct{} // closed when the stream has ended
	mu    sync.Mutex
	file  *os.File // nil: ended
	fd    int
	token uint64
	taps  []*tap // clients who get a copy
	held  bool   // not read, until a client has caught up
	spool *spool // nil: what is read and not dealt with goes with this process
	keep  func(fd int)
}

// sink takes what a stream delivers. end comes once, after the last take.
type sink interface {
	take(data []byte)
	end()
}

// openStream begins to deliver what comes out of f, and owns it.
func openStream(l *loop, f *os.File, to sink) (*stream, error) {
	return openKept(l, f, to, nil, nil)
}

// openKept does so by way of a spool, which it owns too. keep is told the
// descriptor, and -1 when it is about to be closed; f and spool are the
// caller's if that fails.
func openKept(l *loop, f *os.File, to sink, spool *spool, keep func(fd int)) (*stream, error) {
	s := &stream{loop: l, sink: to, file: f, fd: int(f.Fd()), done: make(chan struct{}), spool: spool, keep: keep}
	// Fd made it blocking; we only ever read what is there.
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return nil, err
	}
	s.mu.Lock() // ready may run before the token is known
	defer s.mu.Unlock()
	token, err := l.add(s.fd, unix.EPOLLIN, s.ready)
	if err != nil {
		return nil, err
	}
	s.token = token
	if keep != nil {
		keep(s.fd)
	}
	return s, nil
}

// retell tells keep again, where there is something to keep.
func (s *stream) retell() {
	if s == nil || s.keep == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.keep(s.fd)
	}
}

func (s *stream) ready(_ uint32, buf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && !s.held {
		s.read(buf)
	}
}

// read delivers one buffer full and says whether there may be more now.
func (s *stream) read(buf []byte) bool {
	n, err := s.fetch(buf)
	switch {
	case n > 0:
		s.sink.take(buf[:n])
		s.copy(buf[:n])
		if s.spool != nil {
			s.spool.free(n < len(buf))
		}
		return true
	case errors.Is(err, unix.EAGAIN):
		return false
	case errors.Is(err, unix.EINTR):
		return true
	}
	s.finish() // the end; for a terminal it is EIO
	return false
}

func (s *stream) fetch(buf []byte) (int, error) {
	if s.spool != nil {
		return s.spool.fetch(s.fd, buf)
	}
	return unix.Read(s.fd, buf)
}

// finish ends the stream; s.mu is held.
func (s *stream) finish() {
	s.loop.drop(s.fd, s.token)
	s.file.Close()
	s.file = nil
	s.sink.end()
	s.spool.remove()
	if s.keep != nil {
		s.keep(-1)
	}
	for _, t := range s.taps {
		t.last()
	}
	close(s.done)
}

// drain delivers what is in the pipe at this moment: all that a process wrote
// before it ended. Others may hold the pipe and go on writing, so it stops
// after the most that a pipe can hold (/proc/sys/fs/pipe-max-size); the loop
// reads on.
func (s *stream) drain() {
	if s == nil {
		return
	}
	buf := make([]byte, readSize)
	for range (1 << 20) / readSize {
		s.mu.Lock()
		more := s.file != nil && s.read(buf)
		s.mu.Unlock()
		if !more {
			return
		}
	}
}

// stop delivers what is there and ends the stream whoever still holds it.
func (s *stream) stop() {
	if s == nil {
		return
	}
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.finish()
	}
}

// capture is the sink that keeps the beginning and discards the rest.
type capture struct {
	max  int
	mu   sync.Mutex
	data []byte
}

func (c *capture) take(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, data[:min(len(data), c.max-len(c.data))]...)
}

func (c *capture) end() {}

func (c *capture) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data
}

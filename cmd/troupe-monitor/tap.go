//go:build linux && cgo

package main

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

const (
	// tapMax is how many bytes an attached client may be behind the log.
	tapMax = 1 << 20
	// tapPatience is how long a container waits for a client that takes
	// nothing. conmon and containerd wait without end, and so stop a service
	// for a sleeping laptop.
	tapPatience = 10 * time.Second
)

// tap copies what a stream delivers into a client's pipe, and never blocks: what
// the pipe has no room for is kept, up to tapMax. What then happens is for the
// container's kind: with patience its stream is held until the client has
// caught up; without, the client is thrown out.
type tap struct {
	of      *stream
	patient bool
	ended   chan struct{} // closed when it has ended; why says how

	mu     sync.Mutex
	file   *os.File // nil: ended
	fd     int
	token  uint64 // 0: not waiting for room
	behind []byte
	closes bool // nothing more comes: it ends when nothing is behind
	why    error
	stall  *time.Timer
}

// tap begins to copy into f, and owns it. The copy of a stream that has ended
// is at its end at once.
func (s *stream) tap(f *os.File, patient bool) (*tap, error) {
	t := &tap{of: s, patient: patient, file: f, fd: int(f.Fd()), ended: make(chan struct{})}
	if err := unix.SetNonblock(t.fd, true); err != nil { // Fd made it blocking
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		t.last()
		return t, nil
	}
	s.taps = append(s.taps, t)
	return t, nil
}

// copy gives every client its copy; s.mu is held.
func (s *stream) copy(data []byte) {
	for _, t := range s.taps {
		if t.take(data) && !s.held {
			s.held = true
			s.loop.drop(s.fd, s.token) // not only masked: a hang-up would still wake the loop
		}
	}
}

// release goes on reading a held stream if no client is far behind any more.
func (s *stream) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held || s.file == nil || slices.ContainsFunc(s.taps, (*tap).full) {
		return
	}
	s.held = false
	var err error
	if s.token, err = s.loop.add(s.fd, unix.EPOLLIN, s.ready); err != nil {
		s.loop.log.Error("a container's output is not read any more", "err", err)
	}
}

// untap ends a copy.
func (s *stream) untap(t *tap) {
	t.end(nil)
	s.mu.Lock()
	s.taps = slices.DeleteFunc(s.taps, func(o *tap) bool { return o == t })
	s.mu.Unlock()
	s.release()
}

// take copies, and says whether the stream must be held.
func (t *tap) take(data []byte) (hold bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return false
	}
	if len(t.behind) == 0 {
		data = data[t.write(data):]
	}
	if t.file == nil || len(data) == 0 {
		return false
	}
	t.behind = append(t.behind, data...)
	if t.token == 0 {
		t.wait()
	}
	if len(t.behind) < tapMax {
		return false
	}
	if !t.patient {
		t.endLocked(failf(wire.Busy, "the attached client does not keep up with what the container prints: it is more than %d KiB behind; read the log instead", tapMax>>10))
		return false
	}
	if t.stall == nil && t.file != nil {
		t.stall = time.AfterFunc(tapPatience, t.stalled)
	}
	return t.file != nil
}

// write writes what there is room for.
func (t *tap) write(data []byte) (n int) {
	for n < len(data) {
		w, err := unix.Write(t.fd, data[n:])
		switch {
		case err == nil:
			n += w
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return n
		default: // EPIPE: the client does not read it
			t.endLocked(nil)
			return len(data)
		}
	}
	return n
}

// wait has room called when the pipe has room.
func (t *tap) wait() {
	var err error
	if t.token, err = t.of.loop.add(t.fd, unix.EPOLLOUT, t.room); err != nil {
		t.endLocked(err)
	}
}

func (t *tap) room(uint32, []byte) {
	t.mu.Lock()
	if t.file != nil {
		if n := t.write(t.behind); n > 0 {
			if t.stall != nil {
				t.stall.Reset(tapPatience)
			}
			t.behind = t.behind[min(n, len(t.behind)):] // none when it has ended
		}
		if t.file != nil && len(t.behind) == 0 {
			t.behind = nil // gives the memory back
			t.of.loop.drop(t.fd, t.token)
			t.token = 0
			if t.closes {
				t.endLocked(nil)
			}
		}
	}
	t.mu.Unlock()
	t.of.release()
}

// stalled throws out a client that has taken nothing for tapPatience.
func (t *tap) stalled() {
	if t.full() {
		t.end(failf(wire.Busy, "the attached client has taken nothing for %v while the container waited for it", tapPatience))
		t.of.release()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stall = nil
}

// full says whether the client is so far behind that the stream is held.
func (t *tap) full() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file != nil && t.patient && len(t.behind) >= tapMax/2
}

// last says that nothing more comes; what is behind is still delivered.
func (t *tap) last() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closes = true
	if len(t.behind) == 0 {
		t.endLocked(nil)
	}
}

func (t *tap) end(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(why)
}

func (t *tap) endLocked(why error) {
	if t.file == nil {
		return
	}
	if t.token != 0 {
		t.of.loop.drop(t.fd, t.token)
	}
	if t.stall != nil {
		t.stall.Stop()
	}
	t.file.Close()
	t.file, t.behind, t.why = nil, nil, why
	close(t.ended)
}

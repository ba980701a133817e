//go:build linux && cgo

package main

import (
	"errors"
	"os"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// attach joins the client's pipes to a running container: they get a copy of
// what the log gets, and the client gets the writing end of stdin or of the
// terminal. It ends with the container or the connection, and touches nothing
// but a stdin that is for one attach only.
func (s *session) attach(r wire.Attach) error {
	c, err := s.m.mustFind(r.Ref)
	if err != nil {
		return err
	}
	j, err := c.joint(r)
	if err != nil {
		return err
	}
	defer closeFiles([]*os.File{j.stdin})
	files, err := s.hand(r.Stdout, r.Stderr && !j.tty)
	if err != nil {
		return err
	}
	if r.Stdin {
		s.mu.Lock()
		s.stdin = c.stdinEnds
		s.mu.Unlock()
		defer c.stdinEnds()
	}
	var taps []*tap
	for i, from := range []*stream{j.stdout, j.stderr} {
		if files[i] == nil || from == nil {
			continue
		}
		t, err := from.tap(files[i], j.patient)
		if err != nil {
			return failf(wire.Internal, "attach to container %s: %v", r.Key(), err)
		}
		s.disown(files[i])
		defer from.untap(t)
		taps = append(taps, t)
	}
	closeFiles(s.files) // a terminal has no stderr
	s.files = nil
	s.started(wire.Started{TTY: j.tty, Stdin: j.stdin != nil && !j.tty}, j.stdin)
	closeFiles([]*os.File{j.stdin})
	return s.wait(c, taps)
}

// joint is what of a container can be attached to.
type joint struct {
	stdout, stderr *stream
	stdin          *os.File // a duplicate, of the terminal's master with tty
	tty, patient   bool
}

func (c *container) joint(r wire.Attach) (joint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := joint{stdout: c.stdout, stderr: c.stderr, tty: c.record.TTY, patient: c.record.TTY || c.stdin != nil || c.record.StdinDone}
	switch {
	case c.record.Status != wire.Running:
		return j, failf(wire.Precondition, "attach to container %s: it is %s, not running", r.Key(), c.stateLocked().Status)
	case c.stdout == nil:
		return j, failf(wire.Precondition, "attach to container %s: its streams went with the monitor that started it; restart the container", r.Key())
	}
	var err error
	switch {
	case j.tty:
		j.stdin, err = c.stdout.dup() // also to tell the size of the client's terminal
	case r.Stdin && c.stdin != nil:
		j.stdin, err = dup(c.stdin)
	}
	if err != nil {
		return j, failf(wire.Internal, "attach to container %s: %v", r.Key(), err)
	}
	return j, nil
}

// dup is another descriptor of what a stream reads; nil: it has ended.
func (s *stream) dup() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil, nil
	}
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stdin"), nil
}

// disown forgets a descriptor that another closes now.
func (s *session) disown(f *os.File) {
	for i := range s.files {
		if s.files[i] == f {
			s.files[i] = nil
		}
	}
}

// wait returns when the container has ended and the client has what it printed,
// when a client was thrown out, or when the connection ends.
func (s *session) wait(c *container, taps []*tap) error {
	over, open := c.over, taps
	for over != nil || len(open) > 0 {
		var ended chan struct{} // nil: none to wait for
		if len(open) > 0 {
			ended = open[0].ended
		}
		select {
		case <-s.ctx.Done():
			return nil
		case <-over:
			over = nil
			for _, t := range taps {
				t.last()
			}
		case <-ended:
			if why := open[0].why; why != nil {
				c.log.Warn("an attached client was thrown out", "err", why)
				return why
			}
			open = open[1:]
		}
	}
	return nil
}

// stdinEnds closes the stdin of a container that has it for one attach. A
// terminal has no end but the user's own (^D).
func (c *container) stdinEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.record.StdinOnce || c.record.TTY || c.stdin == nil {
		return
	}
	c.closeStdin()
	c.record.StdinDone = true
	if err := writeJSON(c.m.container(c.ref.Key()), c.record); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Error("the end of stdin cannot be recorded", "err", err)
	}
}

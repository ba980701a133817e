//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// stdio holds both ends of what a new process reads and writes, until connect
// has given ours to the container. closeAll closes what is left.
type stdio struct {
	theirs                []*os.File // to be closed once the process has them
	stdin, stdout, stderr *os.File   // ours
	console               *os.File   // brings the terminal
}

func openStdio(p *process, r wire.Create) (_ *stdio, err error) {
	s := &stdio{}
	defer func() {
		if err != nil {
			s.closeAll()
		}
	}()
	if r.TTY {
		if err := s.openConsole(p); err != nil {
			return nil, err
		}
		return s, nil
	}
	stdout, stderr, err := s.outputs()
	if err != nil {
		return nil, err
	}
	p.Stdout, p.Stderr = stdout, stderr
	if r.Stdin { // else /dev/null
		read, write, err := pipe()
		if err != nil {
			return nil, err
		}
		s.stdin, s.theirs = write, append(s.theirs, read)
		p.Stdin = read
	}
	return s, nil
}

// openConsole makes the socket that the master of a terminal comes by.
func (s *stdio) openConsole(p *process) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket pair for the terminal: %w", err)
	}
	s.console = os.NewFile(uintptr(fds[0]), "console")
	p.ConsoleSocket = os.NewFile(uintptr(fds[1]), "console")
	s.theirs = append(s.theirs, p.ConsoleSocket)
	return nil
}

// outputs makes the pipes of stdout and stderr and gives their writing ends.
func (s *stdio) outputs() (stdout, stderr *os.File, err error) {
	if s.stdout, stdout, err = pipe(); err != nil {
		return nil, nil, err
	}
	s.theirs = append(s.theirs, stdout)
	if s.stderr, stderr, err = pipe(); err != nil {
		return nil, nil, err
	}
	s.theirs = append(s.theirs, stderr)
	return stdout, stderr, nil
}

// pipe is os.Pipe without making the ends known to Go's own poller, which
// would be woken for each line that a container prints.
func pipe() (read, write *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// connect makes our ends the container's; c.mu is held. The process was
// started.
func (s *stdio) connect(c *container) error {
	s.closeTheirs()
	if s.console != nil {
		master, err := receiveTerminal(s.console)
		if err != nil {
			return fmt.Errorf("receive the terminal: %w", err)
		}
		s.stdout = master
	}
	c.stdin, s.stdin = s.stdin, nil
	var err error
	if c.stdout, err = s.hand(&s.stdout, c, "stdout"); err != nil {
		return err
	}
	c.stderr, err = s.hand(&s.stderr, c, "stderr")
	return err
}

// hand gives one end to the loop, which owns it from then on.
func (s *stdio) hand(end **os.File, c *container, name string) (*stream, error) {
	if *end == nil {
		return nil, nil
	}
	spool := c.openOutput(name)
	var err error
	if s.console != nil {
		err = spool.withBuffer()
	}
	var st *stream
	if err == nil {
		st, err = c.connectOutput(*end, name, &lines{log: c.out, name: name, spool: spool})
	}
	if err != nil {
		spool.remove()
		return nil, err
	}
	*end = nil
	return st, nil
}

func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

func (s *stdio) closeAll() {
	s.closeTheirs()
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr, s.console} {
		if f != nil {
			f.Close()
		}
	}
}

// receiveTerminal gets the master of the terminal that init has made inside
// the container. It was sent before init reported ready, so it is there.
func receiveTerminal(socket *os.File) (*os.File, error) {
	fd := int(socket.Fd())
	limit := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, err
	}
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "terminal"), nil
		}
	}
	return nil, errors.New("init sent no descriptor")
}

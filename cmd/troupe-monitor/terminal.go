//go:build linux && cgo

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the socket on which a runtime hands over a process's terminal.
// It is handed on to p.ConsoleSocket, where libcontainer would have sent it.
type terminal struct {
	path     string
	dir      *os.File
	listener *net.UnixListener
}

// terminalFor is nil for a process without a terminal. A unix socket's path has
// at most 107 bytes, so the runtime gets one that goes through our descriptor.
func (e *external) terminalFor(p *process) (_ *terminal, err error) {
	if p.ConsoleSocket == nil {
		return nil, nil
	}
	t := &terminal{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.dir, err = os.Open(e.dir); err != nil {
		return nil, err
	}
	name, err := e.temporary("tty-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil {
		return nil, err
	}
	t.path = fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), t.dir.Fd(), filepath.Base(name))
	if t.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: t.path, Net: "unix"}); err != nil {
		return nil, fmt.Errorf("listen for the terminal: %w", err)
	}
	return t, nil
}

// pass takes what the runtime has sent by now and hands it on.
func (t *terminal) pass(p *process) error {
	if t == nil {
		return nil
	}
	if err := t.listener.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	conn, err := t.listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("the runtime made the process and sent no terminal: %w", err)
	}
	file, err := conn.File()
	conn.Close()
	if err != nil {
		return err
	}
	defer file.Close()
	master, err := receiveTerminal(file)
	if err != nil {
		return fmt.Errorf("receive the terminal from the runtime: %w", err)
	}
	defer master.Close()
	return unix.Sendmsg(int(p.ConsoleSocket.Fd()), []byte("terminal"), unix.UnixRights(int(master.Fd())), nil, 0)
}

func (t *terminal) close() {
	if t == nil {
		return
	}
	if t.listener != nil {
		t.listener.Close() // removes the socket
	}
	if t.dir != nil {
		t.dir.Close()
	}
}

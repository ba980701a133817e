//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// exec runs a command whose stdio are the client's own pipes, or a terminal
// whose master the client gets: the monitor copies nothing. The command lives
// no longer than the connection.
func (s *session) exec(r wire.ExecStream) (wire.ExecEnd, error) {
	none := wire.ExecEnd{}
	c, err := s.m.mayExec(r.Ref, r.Command)
	if err != nil {
		return none, err
	}
	var terminal *specs.Box
	if r.TTY {
		terminal = &specs.Box{Width: uint(r.Width), Height: uint(r.Height)}
	}
	process, err := c.command(r.Command, terminal)
	if err != nil {
		return none, failf(wire.Internal, "exec in container %s: %v", r.Key(), err)
	}
	status, err := s.stream(c, process, r)
	switch {
	case errors.Is(err, context.Canceled):
		return none, failf(wire.Canceled, "command %q in container %s: the client went away", r.Command, r.Key())
	case err != nil:
		return none, c.execFailed(err)
	}
	return wire.ExecEnd{ExitCode: status.code}, nil
}

func (s *session) stream(c *container, process *process, r wire.ExecStream) (exitStatus, error) {
	ends := &stdio{}
	defer ends.closeAll()
	if r.TTY {
		if err := ends.openConsole(process); err != nil {
			return exitStatus{}, err
		}
	} else {
		files, err := s.hand(r.Stdin, r.Stdout, r.Stderr)
		if err != nil {
			return exitStatus{}, err
		}
		// Not by an interface that holds a nil *os.File.
		if files[0] != nil {
			process.Stdin = files[0]
		}
		if files[1] != nil {
			process.Stdout = files[1]
		}
		if files[2] != nil {
			process.Stderr = files[2]
		}
	}
	return c.execute(s.ctx, process, func() error {
		ends.closeTheirs()
		closeFiles(s.files) // the process has its own now: its end must be theirs
		s.files = nil
		if !r.TTY {
			s.started(wire.Started{}, nil)
			return nil
		}
		master, err := receiveTerminal(ends.console)
		if err != nil {
			return fmt.Errorf("receive the terminal: %w", err)
		}
		defer master.Close() // the client's is the only one: when it goes, the kernel hangs up
		s.started(wire.Started{TTY: true}, master)
		return nil
	})
}

//go:build linux && cgo

package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// upgradeCommand asks the running monitor to make room for the program that is
// now where it was started from.
const upgradeCommand = "upgrade"

const (
	// roomPatience is how long requests under way may take to end before the
	// monitor makes room all the same.
	roomPatience = 10 * time.Second
	// endPatience is how long it may take from there to its end.
	endPatience = time.Second
	// upgradePatience is how long the command waits for the new monitor.
	upgradePatience = roomPatience + 10*time.Second
)

// makeRoom ends this monitor for another one. Requests under way are waited for
// and later ones wait for the next monitor, as far as their client asks again;
// sessions end. Of what containers print nothing has to be saved: at each
// moment all of it is where the next monitor finds it.
func (m *monitor) makeRoom(by *conn, id uint64) {
	failpoint.Hit("handle", wire.OpUpgrade, "before")
	if err := m.keeper.upgrade(); err != nil {
		by.answer(id, nil, failf(wire.Precondition, "the monitor goes on: %v", err))
		return
	}
	quiet := make(chan struct{})
	m.guard("wait for requests", func() { m.steps.Lock(); close(quiet) })
	select {
	case <-quiet:
	case <-time.After(roomPatience):
		m.log.Warn("requests under way are cut off, for a new monitor")
	}
	time.AfterFunc(endPatience, m.endSoon) // nobody is served from here on: what holds us up must not go on doing so
	m.log.Info("ending for a new monitor, which takes over all containers", "containers", m.count())
	m.mu.Lock()
	m.makesRoom = true
	m.mu.Unlock()
	failpoint.Hit("handle", wire.OpUpgrade, "after")
	by.answer(id, nil, nil)
	m.endSoon()
}

// runUpgrade is the main function of the command.
func runUpgrade(args []string, say io.Writer) int {
	flags := flag.NewFlagSet(upgradeCommand, flag.ExitOnError)
	dir := flags.String("dir", "", "directory of the monitor (required)")
	_ = flags.Parse(args) // it ends the process
	before, after, err := upgradeMonitor(filepath.Join(*dir, "monitor.sock"))
	if err != nil {
		fmt.Fprintf(say, "upgrade the monitor of %q: %v\n", *dir, err)
		return 1
	}
	fmt.Fprintf(say, "monitor %d has made room for monitor %d\n", before, after)
	return 0
}

func upgradeMonitor(socket string) (before, after int, err error) {
	until := time.Now().Add(upgradePatience)
	before, err = ask(socket, wire.OpUpgrade, until)
	var refused *wire.Error
	if before == 0 || errors.As(err, &refused) {
		return 0, 0, err
	}
	for { // also when its answer was lost
		after, err = ask(socket, "", until)
		switch {
		case err == nil && after != before:
			return before, after, nil
		case time.Now().After(until):
			return 0, 0, errors.Join(errors.New("no new monitor answers; see its log"), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask greets the monitor, does a request unless it is empty, and gives its pid.
func ask(socket, op string, until time.Time) (pid int, err error) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	if err := nc.SetDeadline(until); err != nil {
		return 0, err
	}
	r := bufio.NewReader(nc)
	exchange := func(id uint64, op string, v any) (wire.Frame, error) {
		data, err := wire.Encode(wire.Frame{ID: id, Op: op}, v)
		if err != nil {
			return wire.Frame{}, err
		}
		if _, err := nc.Write(data); err != nil {
			return wire.Frame{}, err
		}
		f, err := wire.Read(r)
		if err == nil && f.Err != nil {
			err = f.Err
		}
		return f, err
	}
	f, err := exchange(1, wire.OpHello, wire.Hello{Version: wire.Version})
	if err != nil {
		return 0, err
	}
	_, err = with(f.Body, func(h wire.Hello) (any, error) { pid = h.Pid; return nil, nil })
	if err == nil && op != "" {
		_, err = exchange(2, op, nil)
	}
	return pid, err
}

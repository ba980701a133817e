package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// untilToldToEnd serves signals until one of them, or a server that failed,
// ends the daemon.
func (d *daemon) untilToldToEnd() error {
	for {
		select {
		case err := <-d.failed:
			return fmt.Errorf("a socket is no longer served: %w", err)
		case <-d.tree.Ended():
			return errors.New("the node actor panicked again and again and was given up: the daemon ends so that it is started anew; containers live on")
		case s := <-d.signals:
			switch s {
			case unix.SIGHUP:
				d.reload()
			case unix.SIGUSR1:
				d.dump()
			default:
				d.log.Info("told to end; containers live on", "signal", s.String())
				return nil
			}
		}
	}
}

// drain takes no new calls and waits for those under way, for as long as the
// configuration says. A second signal ends that at once: records are written
// by rename, so there is nothing that must be finished.
func (d *daemon) drain() error {
	notify(d.log.Logger, systemd.SdNotifyStopping, "STATUS=waiting for calls under way")
	ctx, cancel := context.WithTimeout(context.Background(), d.config.Troupe.DrainTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.stopServing(ctx) }()
	for {
		select {
		case err := <-done:
			d.log.Info("ended")
			return err
		case s := <-d.signals:
			if s == unix.SIGTERM || s == unix.SIGINT {
				d.abandon()
				return fmt.Errorf("told to end twice (%s): calls under way were cut off; containers live on", s)
			}
		}
	}
}

// abandon gives nothing back but the sockets' files: the kernel does the rest
// when the process ends, and waiting is what was not wanted.
func (d *daemon) abandon() {
	d.onEnd = nil
	for _, socket := range d.sockets() {
		_ = os.Remove(socket) // one that stays is replaced by the next start
	}
}

func (d *daemon) stopServing(ctx context.Context) error {
	if err := d.server.GracefulStop(ctx); err != nil {
		d.log.Warn("calls were still under way; their callers will ask again", "within", d.config.Troupe.DrainTimeout, "error", err)
	}
	if d.debug != nil {
		_ = d.debug.GracefulStop(ctx) // only answers from snapshots can be cut off
	}
	return d.stopTree()
}

// stopTree has time of its own, also when the drain has used up its: jobs that
// are cancelled must end before the backends under them are given back.
func (d *daemon) stopTree() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	if err := d.tree.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("ending the actors: %w", err)
	}
	return nil
}

// reload applies what can be changed while running, and names the rest.
func (d *daemon) reload() {
	if stamp := systemd.SdNotifyMonotonicUsec(); stamp != "" {
		notify(d.log.Logger, systemd.SdNotifyReloading, stamp)
	}
	defer notify(d.log.Logger, systemd.SdNotifyReady)
	next, changes, err := d.config.Reload()
	if err != nil {
		d.log.Error("the configuration was not reloaded; what held before still holds", "error", err)
		return
	}
	d.config = next
	d.log.apply(next.Config)
	if err := d.machine.reload(next.Config); err != nil {
		d.log.Error("not all was reloaded", "error", err)
	}
	for _, c := range changes {
		if c.Live {
			d.log.Info("option changed", "option", c.Key, "from", c.From, "to", c.To)
		} else {
			d.log.Warn("option changed in the file; restart the daemon to apply it", "option", c.Key, "from", c.From, "to", c.To)
		}
	}
	d.warn()
	d.log.Info("reloaded", "files", next.Files, "changes", len(changes), "also", "registries.conf")
}

// dump writes what every goroutine is doing to a file under the run directory.
func (d *daemon) dump() {
	path, err := dumpGoroutines(d.config.Troupe.Run)
	if err != nil {
		d.log.Error("no goroutine dump", "error", err)
		return
	}
	d.log.Info("goroutines written", "file", path, "pid", os.Getpid())
}

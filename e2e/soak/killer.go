package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killAbout kills the daemon, the monitor or both, every few seconds. A daemon
// is started again after at most half a second; nobody but Troupe starts the
// monitor again.
func (n *node) killAbout(ctx context.Context, end time.Time) error {
	dice := rand.New(rand.NewPCG(n.seed, 0xdead))
	for time.Now().Before(end) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2*time.Second + time.Duration(dice.IntN(4000))*time.Millisecond):
		}
		draw, down := dice.IntN(100), time.Duration(dice.IntN(500))*time.Millisecond
		first := dice.IntN(2) == 0
		switch {
		case n.monitor && draw < 25:
			if err := n.killMonitor(); err != nil {
				return err
			}
		case n.monitor && draw < 40 && first:
			if err := errors.Join(n.killMonitor(), n.killDaemon(ctx, down)); err != nil {
				return err
			}
		case n.monitor && draw < 40:
			time.AfterFunc(down/2, func() { _ = n.killMonitor() })
			if err := n.killDaemon(ctx, down); err != nil {
				return err
			}
		default:
			if err := n.killDaemon(ctx, down); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *node) killDaemon(ctx context.Context, down time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.daemon.Kill(); err != nil {
		return fmt.Errorf("killing the daemon: %w", err)
	}
	n.kill(&n.tally.daemonKills)
	time.Sleep(down)
	begin := time.Now()
	if err := n.daemon.Start(ctx); err != nil {
		return fmt.Errorf("starting the daemon again: %w", err)
	}
	if took := time.Since(begin); took > 15*time.Second {
		n.tally.find("the daemon took %s to answer again", took.Round(time.Millisecond))
	}
	return nil
}

// killMonitor kills the process that does the monitor's work: where there are
// two, the one whose parent is the other.
func (n *node) killMonitor() error {
	pids := n.daemon.Monitors()
	for _, pid := range pids {
		child := slices.Contains(pids, parent(pid))
		if len(pids) > 1 && !child {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing monitor %d: %w", pid, err)
		}
		n.kill(&n.tally.monitorKills)
		return nil
	}
	return nil // it is dead already
}

func (n *node) kill(count *int) {
	n.tally.mu.Lock()
	defer n.tally.mu.Unlock()
	*count++
	n.tally.killed = time.Now()
}

func (n *node) lastKill() time.Time {
	n.tally.mu.Lock()
	defer n.tally.mu.Unlock()
	return n.tally.killed
}

func (n *node) monitorKills() int {
	n.tally.mu.Lock()
	defer n.tally.mu.Unlock()
	return n.tally.monitorKills
}

func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// meter measures a process and what it starts, by a cgroup they are in: what
// short-lived children use is not lost.
type meter struct {
	group cgroups.Manager
	stop  chan struct{}
	peak  chan int64
	cpu   uint64
}

// newMeter puts the process into a cgroup of that name. The lab whose name is
// in it removes the cgroup.
func newMeter(name string, pid int) (*meter, error) {
	group, err := manager.New(&cgroups.Cgroup{Path: "/" + name, Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, err
	}
	if err := group.Apply(pid); err != nil {
		return nil, fmt.Errorf("moving process %d into a cgroup: %w", pid, err)
	}
	return &meter{group: group}, nil
}

func (m *meter) start() (err error) {
	m.cpu, err = m.usage()
	m.stop, m.peak = make(chan struct{}), make(chan int64)
	go m.watch()
	return err
}

// end gives CPU seconds since start, and the most anonymous memory (what
// cannot be dropped: no text, no page cache) that all processes had together.
func (m *meter) end() (seconds float64, peak int64, err error) {
	close(m.stop)
	peak = <-m.peak
	now, err := m.usage()
	return float64(now-m.cpu) / 1e9, peak, err
}

func (m *meter) usage() (uint64, error) {
	stats, err := m.group.Stats(&cgroups.StatsOptions{Controllers: cgroups.CPU})
	if err != nil {
		return 0, err
	}
	return stats.CpuStats.CpuUsage.TotalUsage, nil
}

// watch looks often enough not to miss a phase of a pull, and so cheaply
// (counters that the kernel keeps) that it does not slow one down.
func (m *meter) watch() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var peak int64
	for {
		peak = max(peak, m.anonymous())
		select {
		case <-m.stop:
			m.peak <- peak
			return
		case <-tick.C:
		}
	}
}

func (m *meter) anonymous() (sum int64) {
	pids, _ := m.group.GetPids() // none: the next look has them
	for _, pid := range pids {
		kib, err := statusField(pid, "RssAnon:")
		if err == nil { // else it has ended
			sum += kib << 10
		}
	}
	return sum
}

func statusField(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, errors.New("no " + name)
}

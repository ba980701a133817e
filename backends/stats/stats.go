// Package stats measures what containers and pods use, when somebody asks: CPU,
// memory, block IO, huge pages, processes and pressure from the cgroup files of
// version 1, version 2 or both; the counters of a pod's network namespace; and
// the disk use of what a container has written.
//
// Nothing here waits for an actor, and nothing runs while nobody asks, but for
// a walk through a container's files that was begun for a caller (disk.go).
package stats

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says what is measured how.
type Config struct {
	// Root is the daemon's state directory, in which a container's files are
	// (see backends/rootfs): Root/pods/<pod>/containers/<id>/upper.
	Root string
	// Period is how long a measurement is good enough as an answer; 0: every
	// call measures (crio.conf(5), collection_period).
	Period time.Duration
	Log    *slog.Logger
}

// Meter measures. It may be used from many goroutines.
type Meter struct {
	trees *trees
	keep  keep
	disk  *disks
	log   *slog.Logger
	now   func() time.Time
}

// New finds the cgroup file systems.
func New(c Config) (*Meter, error) {
	trees, err := mounted()
	if err != nil {
		return nil, fmt.Errorf("statistics: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	disk, err := newDisks(c.Root, c.Log)
	if err != nil {
		return nil, fmt.Errorf("statistics: %w", err)
	}
	return &Meter{trees: trees, keep: keep{period: c.Period}, disk: disk, log: c.Log, now: time.Now}, nil
}

// Close ends the walks that are under way.
func (m *Meter) Close() error {
	m.disk.close()
	return nil
}

// Unified says whether memory is accounted by cgroup v2, which counts more.
func (m *Meter) Unified() bool { return m.trees.unified() }

// Container measures a container that has a process. whole adds what only
// metrics show; it costs about three times as many files. NotFound: it has
// ended meanwhile.
func (m *Meter) Container(ctx context.Context, c *messages.ContainerSnapshot, whole bool) (messages.Usage, error) {
	now := m.now()
	if u, ok := m.keep.usage(c.ID, whole, now); ok {
		return u, nil
	}
	if err := ctx.Err(); err != nil {
		return messages.Usage{}, err
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	p, known := m.keep.place(c.ID, now)
	if !known {
		var err error
		if p, err = m.trees.ofProcess(r, c.Pid, c.ID); err != nil {
			m.keep.forget(c.ID)
			return messages.Usage{}, fmt.Errorf("statistics of container %s: %w", c.ID, err)
		}
		m.keep.putPlace(c.ID, p, now)
	}
	u, err := m.measure(ctx, r, p, whole)
	if err != nil {
		m.keep.forget(c.ID)
		return u, fmt.Errorf("statistics of container %s: %w", c.ID, err)
	}
	if whole {
		u.Processes.OpenFilesLimit = r.openFiles(c.Pid)
		if asked := c.Config.GetLinux().GetResources().GetCpuShares(); asked > 0 && p.cpu == "" {
			u.CPU.Shares = messages.Measured(uint64(asked)) // v2 has only a weight, which runtimes make in two ways
		}
	}
	return m.keep.put(c.ID, u, whole, c.StartedAt), nil
}

// Pod measures a pod's own cgroup; own is false when it has none, and the sum
// of its containers must do.
func (m *Meter) Pod(ctx context.Context, p *messages.PodSnapshot, whole bool) (u messages.Usage, own bool, err error) {
	cgroup, own := podCgroup(p)
	if !own {
		return u, false, nil
	}
	if u, ok := m.keep.usage(p.ID, whole, m.now()); ok {
		return u, true, nil
	}
	if err := ctx.Err(); err != nil {
		return u, true, err
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	u, err = m.measure(ctx, r, m.trees.ofPath(cgroup), whole)
	if err != nil {
		m.keep.forget(p.ID)
		return u, true, fmt.Errorf("statistics of pod %s: %w", p.ID, err)
	}
	return m.keep.put(p.ID, u, whole, p.CreatedAt), true, nil
}

// measure reads the files of a cgroup. One that has gone is an error of kind
// NotFound; a single file that a kernel does not have is an amount not known.
func (m *Meter) measure(ctx context.Context, r *reader, p place, whole bool) (messages.Usage, error) {
	u := messages.Usage{Cgroup: p.name, At: m.now()}
	err := r.cpu(p, &u.CPU, whole)
	if err == nil {
		// A v2 cgroup may be without the memory controller.
		if err = r.memory(p, &u.Memory, whole); gone(err) && p.memory == "" && unix.Access(p.v2, unix.F_OK) == nil {
			err = nil
		}
	}
	if err != nil {
		if gone(err) {
			err = messages.Errorf(messages.NotFound, "the cgroup has gone: %w", err)
		}
		return u, err
	}
	m.trees.io(r, p, &u.IO, whole)
	r.processes(ctx, p, &u.Processes, whole)
	if whole {
		u.HugePages = m.trees.hugePages(r, p)
	}
	return u, ctx.Err()
}

package stats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

const (
	// cheap is how long a walk may take to be done again for each caller.
	cheap = 500 * time.Microsecond
	// freshFor is how long even a cheap one is good enough.
	freshFor = time.Second
	// rarely is the least age at which a walk that is not cheap is repeated,
	share  = 50
	rarely = 10 * time.Second
	// firstWait is how long a caller waits for the first walk of a container;
	// it goes on without it.
	firstWait = 250 * time.Millisecond
	// walkers is how many walks are under way at a time.
	walkers = 2
)

// disks measures writable layers. A kubelet asks every ten seconds, and a layer
// may have a million files: a walk that takes long is repeated in the
// background, at most so often that it takes a fiftieth of the time, and
// callers get the last result with its time.
type disks struct {
	root   string // of the daemon, without symbolic links
	device string
	log    *slog.Logger
	slots  chan struct{}
	ctx    context.Context // of all walks
	cancel context.CancelFunc
	walks  sync.WaitGroup

	mu    sync.Mutex
	of    map[string]*layer // by container
	swept time.Time
}

// layer is what is known of one writable layer.
type layer struct {
	asked   time.Time
	at      time.Time // end of the last walk; zero: none yet
	took    time.Duration
	size    size
	failed  time.Time     // of the last walk, when it failed
	running chan struct{} // closed when the walk under way ends; nil: none is
}

func newDisks(root string, log *slog.Logger) (*disks, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("the daemon's root directory: %w", err)
	}
	d := &disks{root: root, device: deviceOf(root), log: log, slots: make(chan struct{}, walkers), of: map[string]*layer{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

func (d *disks) close() {
	d.cancel()
	d.walks.Wait()
}

// deviceOf is the device of the file system that holds a path, as mount(8)
// shows it.
func deviceOf(path string) string {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return ""
	}
	deepest := &mountinfo.Info{}
	for _, m := range mounts {
		if len(m.Mountpoint) >= len(deepest.Mountpoint) {
			deepest = m
		}
	}
	return deepest.Source
}

// Root is the directory that what containers write is below.
func (m *Meter) Root() string { return m.disk.root }

// Disk is what a container has written, by the last walk through it, and the
// file system that it is on.
func (m *Meter) Disk(ctx context.Context, c *messages.ContainerSnapshot) (messages.DiskUsage, error) {
	u := messages.DiskUsage{Mountpoint: m.disk.root, Device: m.disk.device}
	var fs unix.Statfs_t
	if err := unix.Statfs(m.disk.root, &fs); err != nil {
		return u, fmt.Errorf("disk use of container %s: file system of %s: %w", c.ID, m.disk.root, err)
	}
	u.Capacity = fs.Blocks * uint64(fs.Bsize)
	u.InodesTotal, u.InodesFree = fs.Files, fs.Ffree
	upper := filepath.Join(m.disk.root, "pods", c.Pod, "containers", c.ID, "upper")
	if l, ok := m.disk.measure(ctx, c.ID, upper, m.now()); ok {
		u.At, u.Bytes, u.Inodes = l.at, messages.Measured(l.size.bytes), messages.Measured(l.size.inodes)
	}
	return u, nil
}

// measure gives a copy of what is known of a layer, after walking it when that
// is due; ok is false when the first walk takes its time.
func (d *disks) measure(ctx context.Context, id, upper string, now time.Time) (l layer, ok bool) {
	d.mu.Lock()
	one := d.get(id, now)
	done := one.running
	if done == nil && one.due(now) && d.ctx.Err() == nil {
		done = d.start(one, id, upper)
	}
	wait := firstWait
	if !one.at.IsZero() && (one.took > cheap || done == nil) {
		wait = 0
	}
	d.mu.Unlock()
	if wait > 0 && done != nil {
		patience := time.NewTimer(wait)
		defer patience.Stop()
		select {
		case <-done:
		case <-patience.C:
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return *one, !one.at.IsZero()
}

// due says whether a layer should be walked again.
func (l *layer) due(now time.Time) bool {
	switch age := now.Sub(l.at); {
	case now.Sub(l.failed) < rarely:
		return false
	case l.at.IsZero():
		return true
	case l.took <= cheap:
		return age >= freshFor
	default:
		return age >= max(rarely, share*l.took)
	}
}

// get gives what is known of a layer; what nobody asked about for long is
// dropped. The caller holds mu.
func (d *disks) get(id string, now time.Time) *layer {
	if now.Sub(d.swept) > forgotten/10 {
		d.swept = now
		for id, one := range d.of {
			if one.running == nil && now.Sub(one.asked) > forgotten {
				delete(d.of, id)
			}
		}
	}
	one := d.of[id]
	if one == nil {
		one = &layer{}
		d.of[id] = one
	}
	one.asked = now
	return one
}

// start begins a walk. The caller holds mu.
func (d *disks) start(one *layer, id, upper string) (done chan struct{}) {
	done = make(chan struct{})
	one.running = done
	d.walks.Add(1)
	go func() {
		defer d.walks.Done()
		defer close(done)
		s, took, err := d.walk(upper)
		d.mu.Lock()
		defer d.mu.Unlock()
		one.running = nil
		if err != nil {
			one.failed = time.Now()
			if gone(err) {
				delete(d.of, id)
			} else if !errors.Is(err, context.Canceled) {
				d.log.Warn("the disk use of a container could not be measured", "container", id, "directory", upper, "error", err)
			}
			return
		}
		one.at, one.took, one.size = time.Now(), took, s
	}()
	return done
}

// walk waits for its turn and measures how long it took itself.
func (d *disks) walk(upper string) (size, time.Duration, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-d.ctx.Done():
		return size{}, 0, d.ctx.Err()
	}
	began := time.Now()
	s, err := walk(d.ctx, upper)
	return s, time.Since(began), err
}

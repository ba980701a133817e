package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sync/errgroup"
)

// sample is one measurement of one step.
type sample struct {
	Wall   float64 `json:"wallSeconds"`
	Sync   float64 `json:"syncSeconds"` // syncfs when the pull has answered: what it left to a power cut
	CPU    float64 `json:"cpuSeconds"`
	Peak   int64   `json:"peakBytes"` // anonymous memory of the daemon and its children
	Sent   int64   `json:"sentBytes"` // by the registry, of blobs
	Resent int64   `json:"resentBytes"`
}

// step is images that are asked for at the same moment.
type step struct {
	name string
	refs []string
}

// scene is steps on one fresh disk, one after the other.
type scene struct {
	steps []step
	by    []string // contenders, in this order in each round
}

func (s scene) names() (names []string) {
	for _, step := range s.steps {
		names = append(names, step.name)
	}
	return names
}

// results are samples by step and contender.
type results map[string]map[string][]sample

func (r results) add(step, contender string, s sample) {
	if r[step] == nil {
		r[step] = map[string][]sample{}
	}
	r[step][contender] = append(r[step][contender], s)
}

// median is that of each figure by itself; of what was sent again, the worst.
func (r results) median(step, contender string) (m sample, ok bool) {
	all := r[step][contender]
	if len(all) == 0 {
		return sample{}, false
	}
	m.Wall = middle(all, func(s sample) float64 { return s.Wall })
	m.Sync = middle(all, func(s sample) float64 { return s.Sync })
	m.CPU = middle(all, func(s sample) float64 { return s.CPU })
	m.Peak = middle(all, func(s sample) int64 { return s.Peak })
	m.Sent = middle(all, func(s sample) int64 { return s.Sent })
	for _, s := range all {
		m.Resent = max(m.Resent, s.Resent)
	}
	return m, true
}

func middle[T float64 | int64](all []sample, of func(sample) T) T {
	var values []T
	for _, s := range all {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// place is where a contender works: a lab, and a directory on a fresh disk.
type place struct {
	lab     *harness.Lab
	dir     string
	host    string // of the registry
	profile string // file for a CPU profile of Troupe; empty: none
}

// diskMiB is the size of a disk; what is not written takes no memory.
const diskMiB = 3072

// play runs a scene with one contender, on a disk and a lab of its own.
func play(ctx context.Context, r *registry, s scene, contender, profile string, out results) (err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	disk, err := lab.NewJournaledDisk("store", diskMiB)
	if err != nil {
		return err
	}
	p := &place{lab: lab, dir: filepath.Join(disk.Dir, "store"), host: r.host, profile: profile}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	c, err := contenders[contender](ctx, p)
	if err != nil {
		return err
	}
	m, err := newMeter(filepath.Join(lab.Name, "pull"), c.pid)
	if err != nil {
		return err
	}
	for _, step := range s.steps {
		taken, err := take(ctx, r, m, c, step, disk.Dir)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench-pull: %-22s %-15s %6.2f s, then syncfs %5.2f s, %6.2f CPU s, peak %4d MiB, sent %4d MB\n",
			step.name, contender, taken.Wall, taken.Sync, taken.CPU, taken.Peak>>20, taken.Sent/1e6)
		out.add(step.name, contender, taken)
	}
	return nil
}

func take(ctx context.Context, r *registry, m *meter, c *running, s step, disk string) (t sample, err error) {
	var measured error
	if err := syncfs(disk); err != nil { // of what came before
		return t, err
	}
	r.reset()
	if err := m.start(); err != nil {
		return t, err
	}
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for _, ref := range s.refs {
		g.Go(func() error { return c.pull(gctx, ref) })
	}
	err = g.Wait()
	t.Wall = time.Since(begin).Seconds()
	begin = time.Now()
	synced := syncfs(disk)
	t.Sync = time.Since(begin).Seconds()
	t.CPU, t.Peak, measured = m.end()
	t.Sent, t.Resent = r.traffic()
	return t, errors.Join(err, synced, measured)
}

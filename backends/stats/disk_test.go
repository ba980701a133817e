package stats

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func TestAWalkCountsEachInodeOnceAndFollowsNothing(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(outside, "big"), make([]byte, 1<<20), 0o600))
	ok(t, os.MkdirAll(filepath.Join(root, "a", "b"), 0o755))
	ok(t, os.WriteFile(filepath.Join(root, "a", "file"), make([]byte, 100<<10), 0o600))
	ok(t, os.Link(filepath.Join(root, "a", "file"), filepath.Join(root, "a", "b", "same")))
	ok(t, os.Symlink(outside, filepath.Join(root, "a", "away")))
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	ok(t, err)
	ok(t, sparse.Truncate(1<<30))
	ok(t, sparse.Close())
	got, err := walk(t.Context(), root)
	ok(t, err)
	if got.inodes != 6 { // root, a, b, file, away, sparse
		t.Errorf("%d inodes", got.inodes)
	}
	if got.bytes < 100<<10 || got.bytes > 200<<10 {
		t.Errorf("%d bytes", got.bytes)
	}
}

func TestAWalkStaysOnItsFileSystem(t *testing.T) {
	root := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(root, "mnt"), 0o755))
	ok(t, unix.Mount("tmpfs", filepath.Join(root, "mnt"), "tmpfs", 0, ""))
	t.Cleanup(func() { ok(t, unix.Unmount(filepath.Join(root, "mnt"), unix.MNT_DETACH)) })
	ok(t, os.WriteFile(filepath.Join(root, "mnt", "f"), make([]byte, 1<<20), 0o600))
	got, err := walk(t.Context(), root)
	ok(t, err)
	if got.inodes != 1 {
		t.Errorf("%d inodes: the mounted one was counted", got.inodes)
	}
}

// A path may be longer than the kernel takes at once; what is there counts.
func TestADeepTreeHidesNothing(t *testing.T) {
	root := t.TempDir()
	name := strings.Repeat("d", 200)
	const depth = 100 // 20,000 bytes of path
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	ok(t, err)
	for range depth {
		ok(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		ok(t, err)
		ok(t, unix.Close(fd))
		fd = next
	}
	ok(t, unix.Close(fd))
	before := openDescriptors(t)
	got, err := walk(t.Context(), root)
	ok(t, err)
	if got.inodes != depth+1 {
		t.Errorf("%d inodes, want %d", got.inodes, depth+1)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func openDescriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	return len(entries)
}

func TestAWalkEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := openDescriptors(t)
	if _, err := walk(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestTheWritableLayerIsMeasuredAndGrows(t *testing.T) {
	m := meter(t)
	c := &messages.ContainerSnapshot{ID: anID, Pod: anID}
	upper := filepath.Join(m.disk.root, "pods", c.Pod, "containers", c.ID, "upper")
	if u, err := m.Disk(t.Context(), c); err != nil || u.Bytes.Known || u.Capacity == 0 {
		t.Errorf("before there is a layer: %+v, %v", u, err)
	}
	ok(t, os.MkdirAll(upper, 0o755))
	first, err := m.Disk(t.Context(), c)
	ok(t, err)
	if !first.Bytes.Known || first.Inodes.N != 1 || first.Mountpoint != m.disk.root || first.Device == "" || time.Since(first.At) > time.Minute {
		t.Errorf("an empty layer: %+v", first)
	}
	ok(t, os.WriteFile(filepath.Join(upper, "f"), make([]byte, 1<<20), 0o600))
	m.now = func() time.Time { return time.Now().Add(freshFor + share*time.Minute) }
	second, err := m.Disk(t.Context(), c)
	ok(t, err)
	if second.Inodes.N != 2 || second.Bytes.N < first.Bytes.N+1<<20 {
		t.Errorf("after a MiB was written: %+v", second)
	}
}

// What takes long is not done again for each who asks.
func TestALongWalkIsRepeatedRarelyAndInTheBackground(t *testing.T) {
	d, err := newDisks(t.TempDir(), slog.New(slog.DiscardHandler))
	ok(t, err)
	defer d.close()
	now := time.Now()
	upper := filepath.Join(d.root, "upper")
	ok(t, os.Mkdir(upper, 0o755))
	d.of["c"] = &layer{at: now, asked: now, took: time.Second, size: size{bytes: 5, inodes: 5}}
	for _, age := range []time.Duration{0, time.Second, 49 * time.Second} {
		if l, known := d.measure(t.Context(), "c", upper, now.Add(age)); !known || l.running != nil || l.size.bytes != 5 {
			t.Errorf("after %s: %+v", age, l)
		}
	}
	for range walkers {
		d.slots <- struct{}{} // no walk gets on
	}
	began := time.Now()
	l, known := d.measure(t.Context(), "c", upper, now.Add(share*time.Second))
	if !known || l.running == nil || l.size.bytes != 5 || l.at != now {
		t.Errorf("when it is due: %+v", l)
	}
	if waited := time.Since(began); waited > firstWait {
		t.Errorf("the caller waited %s for it", waited)
	}
	<-d.slots
	<-l.running
	if l, _ := d.measure(t.Context(), "c", upper, now.Add(share*time.Second)); l.size.inodes != 1 {
		t.Errorf("the walk's result: %+v", l)
	}
	<-d.slots
}

func TestAFirstWalkThatTakesLongIsNotWaitedFor(t *testing.T) {
	d, err := newDisks(t.TempDir(), slog.New(slog.DiscardHandler))
	ok(t, err)
	for range walkers {
		d.slots <- struct{}{}
	}
	if _, known := d.measure(t.Context(), "c", d.root, time.Now()); known {
		t.Error("a result came from nowhere")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	d.measure(ctx, "c", d.root, time.Now())
	if waited := time.Since(began); waited > firstWait {
		t.Errorf("a caller that has gone waited %s", waited)
	}
	d.close() // ends the walk that waits
	if _, known := d.measure(t.Context(), "c", d.root, time.Now()); known || d.of["c"].running != nil {
		t.Error("a walk began after the end")
	}
}

// A sum that is not whole would show as a small layer.
func TestAWalkThatCannotGoOnIsAnError(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"a", "b", "c"} {
		ok(t, os.MkdirAll(filepath.Join(root, dir, "d"), 0o755))
	}
	var before unix.Rlimit
	ok(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	t.Cleanup(func() { ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) })
	top, err := os.Open(root)
	ok(t, err)
	defer top.Close()
	// Room for one more descriptor: the top, and nothing below it.
	ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(top.Fd()) + 2, Max: before.Max}))
	if got, err := walk(t.Context(), root); !errors.Is(err, unix.EMFILE) {
		t.Errorf("without descriptors: %+v, %v", got, err)
	}
}

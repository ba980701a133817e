package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/backends"
)

// keepQuarantined is how long a record that was put aside is there for people,
// and for a newer Troupe that can read it.
const keepQuarantined = 30 * 24 * time.Hour

const quarantined = "quarantined record"

// Held is every record, every directory of a pod or container that has none, and
// what has been in quarantine for long enough.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, err
	}
	var held []backends.Held
	for _, k := range keys {
		dir := b.dir(k)
		if _, err := os.Lstat(filepath.Join(dir, recordName)); err == nil {
			held = append(held, backends.Held{Kind: "record", Pod: k.Pod, Container: k.Container, Name: filepath.Join(dir, recordName)})
		} else if isBare(dir) || backends.IsOurs(filepath.Base(dir)) {
			held = append(held, backends.Held{Kind: "directory", Pod: k.Pod, Container: k.Container, Name: dir})
		}
	}
	old, err := b.oldQuarantine()
	return append(held, old...), err
}

// isBare says whether all that is left in a directory are our own leftovers: a
// half-written record, or a containers directory with nothing in it.
func isBare(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			continue
		}
		inner, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if e.Name() != "containers" || err != nil || len(inner) > 0 {
			return false
		}
	}
	return true
}

// Drop removes a record that no actor owns, or a directory without one and all
// that is in it. It is the last to be asked, so what is in it belongs to nobody;
// what is mounted in it may, and stays.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	if h.Kind == quarantined {
		return os.RemoveAll(filepath.Join(b.quarantine, filepath.Base(h.Name)))
	}
	k := backends.Key{Pod: h.Pod, Container: h.Container}
	if err := b.Remove(ctx, k); err != nil || h.Kind != "directory" || !backends.IsOurs(filepath.Base(b.dir(k))) {
		return err
	}
	dir, err := filepath.EvalSymlinks(b.dir(k)) // as the kernel names it
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("remove %s: look for mounts: %w", dir, err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %s: %s is mounted in it; unmount it", dir, mounts[0].Mountpoint)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove a directory without a record: %w", err)
	}
	b.sync.removed(filepath.Dir(b.dir(k)))
	return nil
}

// oldQuarantine is what was put aside so long ago that nobody asks for it.
func (b *Backend) oldQuarantine() (held []backends.Held, err error) {
	entries, err := os.ReadDir(b.quarantine)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list the quarantine: %w", err)
	}
	for _, e := range entries {
		k, at, ours := parseQuarantined(e.Name())
		if ours && time.Since(at) > keepQuarantined {
			held = append(held, backends.Held{Kind: quarantined, Pod: k.Pod, Container: k.Container, Name: filepath.Join(b.quarantine, e.Name())})
		}
	}
	return held, nil
}

// quarantineName is "<pod>-<container>-<nanoseconds>", without the container
// for a pod's own record.
func quarantineName(k backends.Key, at time.Time) string {
	name := k.Pod
	if k.Container != "" {
		name += "-" + k.Container
	}
	return fmt.Sprintf("%s-%d", name, at.UnixNano())
}

// parseQuarantined reads quarantineName back, for ids as the daemon gives them.
func parseQuarantined(name string) (k backends.Key, at time.Time, ours bool) {
	parts := strings.Split(name, "-")
	nanos, err := strconv.ParseInt(parts[len(parts)-1], 10, 64)
	if err != nil || len(parts) < 2 || len(parts) > 3 || !backends.IsOurs(parts[0]) {
		return k, at, false
	}
	k.Pod = parts[0]
	if len(parts) == 3 {
		if k.Container = parts[1]; !backends.IsOurs(k.Container) {
			return k, at, false
		}
	}
	return k, time.Unix(0, nanos), true
}

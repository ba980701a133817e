package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"golang.org/x/sys/unix"
)

// Load gives all whole records, each pod's before those of its containers. A
// record that is torn, empty, foreign, newer than this daemon, too big, or no
// file at all is moved to <Root>/quarantine and named in damaged with the
// reason, for people. What an older daemon put there because it was newer than
// that one comes back. A container's directory that has lost its record is named
// each time: the daemon may have ended before it could take down what it heard.
func (b *Backend) Load(ctx context.Context) (records []backends.Record, damaged []string, err error) {
	b.bringBack("")
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, nil, err
	}
	return b.load(ctx, keys)
}

// LoadPod is Load of one pod: what its actor needs after a panic is not worth
// reading all others' records for.
func (b *Backend) LoadPod(ctx context.Context, pod string) (records []backends.Record, damaged []string, err error) {
	if err := backends.CheckID("pod", pod); err != nil {
		return nil, nil, err
	}
	b.bringBack(pod)
	keys, err := b.keysOf(ctx, []string{pod})
	if err != nil {
		return nil, nil, err
	}
	return b.load(ctx, keys)
}

func (b *Backend) load(ctx context.Context, keys []backends.Key) (records []backends.Record, damaged []string, err error) {
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		removeTemporary(b.dir(k))
		path := filepath.Join(b.dir(k), recordName)
		content, err := backends.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if k.Container != "" && !isBare(b.dir(k)) {
				damaged = append(damaged, fmt.Sprintf("%s: is not there, and what the container has is", path))
			}
			continue
		}
		if isShortage(err) {
			return nil, nil, fmt.Errorf("%w; this is no fault of the record: give the daemon more (LimitNOFILE=, memory) and start it again", err)
		}
		var body []byte
		if err == nil {
			body, err = decode(k, content)
		}
		if err != nil {
			damaged = append(damaged, b.quarantineRecord(k, path, err))
			continue
		}
		records = append(records, backends.Record{Key: k, Data: body})
	}
	b.tidy(keys)
	return records, damaged, nil
}

// tidy removes the directories that a daemon left empty when it died within its
// first write of a record, or within a Remove. (Crash points journal/save/written
// and journal/remove/removed.) One that has anything in it stays its owner's, and
// a Save that is just making one makes it again.
func (b *Backend) tidy(keys []backends.Key) {
	for _, k := range slices.Backward(keys) { // containers before their pod
		b.removeEmpty(b.dir(k), k.Container == "")
	}
}

// isShortage says whether the node has run out of something: then nothing is
// known of the record.
func isShortage(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// quarantineRecord moves a bad record out of the way and describes it. What
// cannot be moved is named too: the next Load meets it again.
func (b *Backend) quarantineRecord(k backends.Key, path string, reason error) string {
	target := filepath.Join(b.quarantine, quarantineName(k, time.Now()))
	err := os.MkdirAll(b.quarantine, 0o700)
	if err == nil {
		err = os.Rename(path, target)
	}
	if err != nil {
		b.log.Error("a damaged record could not be moved to quarantine; move it away yourself", "pod", k.Pod, "container", k.Container, "record", path, "error", err)
		return fmt.Sprintf("%s: %v; could not be moved: %v", path, reason, err)
	}
	b.sync.removed(filepath.Dir(path))
	b.log.Warn("a record cannot be used and was put aside; what it belonged to is removed; look at the file, or delete it", "pod", k.Pod, "container", k.Container, "reason", reason, "kept", target)
	return fmt.Sprintf("%s: %v; kept as %s", path, reason, target)
}

// bringBack puts records that this daemon can read back in their places, those of
// one pod or of all (""). Only a record that was too new for an earlier daemon can
// have become readable.
func (b *Backend) bringBack(pod string) {
	entries, _ := os.ReadDir(b.quarantine) // none, or what cannot be read: nothing to bring back
	for _, e := range entries {
		k, _, ours := parseQuarantined(e.Name())
		from, place := filepath.Join(b.quarantine, e.Name()), filepath.Join(b.dir(k), recordName)
		if !ours || pod != "" && k.Pod != pod {
			continue
		}
		content, err := backends.ReadFile(from)
		if err == nil {
			_, err = decode(k, content)
		}
		if err != nil {
			continue
		}
		if err = os.MkdirAll(b.dir(k), 0o700); err == nil {
			err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, place, unix.RENAME_NOREPLACE)
		}
		if err != nil {
			b.log.Warn("a record in quarantine can be read now, but not be put back", "pod", k.Pod, "container", k.Container, "record", from, "error", err)
			continue
		}
		b.sync.wrote(place)
		b.log.Info("a record that an older Troupe could not read is back", "pod", k.Pod, "container", k.Container)
	}
}

// keys are the directories that may hold a record, in the order of Load.
func (b *Backend) keys(ctx context.Context) ([]backends.Key, error) {
	pods, err := ids(b.pods)
	if err != nil {
		return nil, fmt.Errorf("list pod records: %w", err)
	}
	return b.keysOf(ctx, pods)
}

func (b *Backend) keysOf(ctx context.Context, pods []string) ([]backends.Key, error) {
	var keys []backends.Key
	for _, pod := range pods {
		keys = append(keys, backends.Key{Pod: pod})
		containers, err := ids(filepath.Join(b.pods, pod, "containers"))
		if isShortage(err) {
			return nil, fmt.Errorf("list container records: %w", err)
		}
		if err != nil {
			// One unreadable pod must not keep the others from coming back.
			b.log.Error("container records of a pod cannot be listed", "pod", pod, "error", err)
		}
		for _, container := range containers {
			keys = append(keys, backends.Key{Pod: pod, Container: container})
		}
	}
	return keys, ctx.Err()
}

func ids(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && backends.IsOurs(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

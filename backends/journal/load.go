package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends"
)

// Load gives all whole records, each pod's before those of its containers. A
// record that is torn, empty, foreign, or newer than this daemon is moved to
// <Root>/quarantine and named in damaged with the reason, for people.
func (b *Backend) Load(ctx context.Context) (records []backends.Record, damaged []string, err error) {
	keys, err := b.keys(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		removeTemporary(b.dir(k))
		path := filepath.Join(b.dir(k), recordName)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
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

// quarantineRecord moves a bad record out of the way and describes it. What
// cannot be moved is named too: the next Load meets it again.
func (b *Backend) quarantineRecord(k backends.Key, path string, reason error) string {
	name := k.Pod
	if k.Container != "" {
		name += "-" + k.Container
	}
	target := filepath.Join(b.quarantine, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	err := os.MkdirAll(b.quarantine, 0o700)
	if err == nil {
		err = os.Rename(path, target)
	}
	if err != nil {
		b.log.Error("a damaged record could not be moved to quarantine", "pod", k.Pod, "container", k.Container, "record", path, "error", err)
		return fmt.Sprintf("%s: %v; could not be moved: %v", path, reason, err)
	}
	b.sync.removed(filepath.Dir(path))
	b.log.Warn("record is damaged and was put aside", "pod", k.Pod, "container", k.Container, "reason", reason, "kept", target)
	return fmt.Sprintf("%s: %v; kept as %s", path, reason, target)
}

// keys are the directories that may hold a record, in the order of Load.
func (b *Backend) keys(ctx context.Context) ([]backends.Key, error) {
	pods, err := ids(b.pods)
	if err != nil {
		return nil, fmt.Errorf("list pod records: %w", err)
	}
	var keys []backends.Key
	for _, pod := range pods {
		keys = append(keys, backends.Key{Pod: pod})
		containers, err := ids(filepath.Join(b.pods, pod, "containers"))
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
		if e.IsDir() && backends.CheckID("", e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Held is every record, and every directory of ours with nothing in it.
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
		} else if isBare(dir) {
			held = append(held, backends.Held{Kind: "directory", Pod: k.Pod, Container: k.Container, Name: dir})
		}
	}
	return held, nil
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

// Drop removes a record that no actor owns.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	return b.Remove(ctx, backends.Key{Pod: h.Pod, Container: h.Container})
}

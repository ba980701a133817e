// Package journal keeps the records of pods and containers: one small file
// each, <Root>/pods/<pod>/record and <Root>/pods/<pod>/containers/<id>/record.
//
// A record is replaced by an atomic rename and nothing waits for the disk: the
// death of the daemon loses nothing, because the page cache is the kernel's. A
// goroutine syncs what was written shortly after, so a power cut loses at most
// the last moment; Load notices what it tore.
package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says where the records are.
type Config struct {
	Root string // e.g. /var/lib/troupe; made when absent
	Log  *slog.Logger
}

// Backend implements backends.Journal in a file system.
type Backend struct {
	pods       string
	quarantine string
	log        *slog.Logger
	sync       *syncer
}

var _ backends.Journal = (*Backend)(nil)

// New starts the goroutine that syncs; Close ends it.
func New(c Config) *Backend {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Backend{
		pods:       filepath.Join(c.Root, "pods"),
		quarantine: filepath.Join(c.Root, "quarantine"),
		log:        c.Log,
		sync:       startSyncer(c.Log),
	}
}

// Close waits until all that was saved is on the disk. Save still works after
// it, but nothing syncs any more.
func (b *Backend) Close() error { return b.sync.close() }

const recordName = "record"

func (b *Backend) dir(k backends.Key) string {
	if k.Container == "" {
		return filepath.Join(b.pods, k.Pod)
	}
	return filepath.Join(b.pods, k.Pod, "containers", k.Container)
}

func checkKey(k backends.Key) error {
	if err := backends.CheckID("pod", k.Pod); err != nil {
		return err
	}
	if k.Container == "" {
		return nil
	}
	return backends.CheckID("container", k.Container)
}

var (
	_ = failpoint.Declare("journal", "save", "before")
	_ = failpoint.Declare("journal", "save", "written") // beside the old record
	_ = failpoint.Declare("journal", "save", "after")
	_ = failpoint.Declare("journal", "remove", "before")
	_ = failpoint.Declare("journal", "remove", "removed") // its directories are still there
	_ = failpoint.Declare("journal", "remove", "after")
)

// Save replaces the record. When it fails the old one stays whole.
func (b *Backend) Save(ctx context.Context, k backends.Key, data []byte) error {
	if err := checkKey(k); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	content, err := encode(k, data)
	if err != nil {
		return err
	}
	if len(content) > backends.MaxFile {
		return messages.Errorf(messages.Invalid, "save record of pod %s container %q: it has %d MiB, the limit is %d: its configuration is too big", k.Pod, k.Container, len(content)>>20, backends.MaxFile>>20)
	}
	dir := b.dir(k)
	failpoint.Hit("journal", "save", "before")
	// Remove of a neighbour may take away a directory that was empty for a
	// moment between MkdirAll and the new file in it, or within MkdirAll, which
	// then says that what it could not make is there.
	for range 100 {
		if err = replace(dir, content); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return classify(fmt.Errorf("save record of %s: %w", dir, err))
	}
	failpoint.Hit("journal", "save", "after")
	b.sync.wrote(filepath.Join(dir, recordName))
	return nil
}

// temporary is what the names of half-written files begin with.
const temporary = ".record-"

func replace(dir string, content []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, temporary+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Close())
	if err == nil {
		failpoint.Hit("journal", "save", "written")
		err = os.Rename(f.Name(), filepath.Join(dir, recordName))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Remove forgets the record and the directories that are empty without it. A
// directory that other backends still have something in stays theirs.
func (b *Backend) Remove(_ context.Context, k backends.Key) error {
	if err := checkKey(k); err != nil {
		return err
	}
	dir := b.dir(k)
	failpoint.Hit("journal", "remove", "before")
	err := os.Remove(filepath.Join(dir, recordName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	failpoint.Hit("journal", "remove", "removed")
	removeTemporary(dir)
	b.sync.removed(b.removeEmpty(dir, k.Container == ""))
	failpoint.Hit("journal", "remove", "after")
	return nil
}

// removeEmpty removes a record's directory and those above it that are empty
// without it, and gives the first that stays.
func (b *Backend) removeEmpty(dir string, pod bool) string {
	if pod {
		_ = os.Remove(filepath.Join(dir, "containers"))
	}
	// rmdir fails on a directory that is not empty, which is what is wanted.
	for ; dir != b.pods; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break
		}
	}
	return dir
}

func removeTemporary(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, temporary+"*"))
	for _, path := range left {
		_ = os.Remove(path)
	}
}

func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "%w", err)
	}
	return err
}

package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage/pkg/ioutils"
	"golang.org/x/sys/unix"

	"github.com/troupe-run/troupe/backends"
)

// artifacts is the store of artifacts, which containers-storage has no place
// for. Each has a directory named by the digest of its manifest:
//
//	manifest.json  as the registry served it
//	files/         what a volume of it shows
//	record.json    names and digests, replaced by rename
//
// A name that begins with a dot is being made or removed, and goes at the next
// start. Only the daemon writes here, so what is recorded is kept in memory.
type artifacts struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	records map[string]artifactRecord // by id
}

type artifactRecord struct {
	ID      string          `json:"id"`
	Names   []string        `json:"names,omitempty"`
	History []string        `json:"history,omitempty"` // names it had
	Digests []digest.Digest `json:"digests"`           // by which registries name it
	Files   []artifactFile  `json:"files"`
	Data    int64           `json:"data"` // bytes of the manifest
}

func (r artifactRecord) size() uint64 {
	n := r.Data
	for _, f := range r.Files {
		n += f.Size
	}
	return uint64(n)
}

// load reads the records. It names what a killed daemon has left.
func (a *artifacts) load() (halves []string, err error) {
	a.records = map[string]artifactRecord{}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, fmt.Errorf("artifacts: %w", err)
	}
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return nil, fmt.Errorf("artifacts: %w", err)
	}
	for _, e := range entries {
		at := filepath.Join(a.dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			halves = append(halves, at)
			continue
		}
		var r artifactRecord
		data, err := backends.ReadFile(filepath.Join(at, "record.json"))
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil || r.ID != e.Name() {
			// It stays: a container may have it mounted. The next pull replaces it.
			a.log.Warn("artifact cannot be read and is not listed", "artifact", at, "error", err)
			continue
		}
		a.records[r.ID] = r
	}
	return halves, nil
}

func (a *artifacts) get(id string) (artifactRecord, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.records[id]
	return r, ok
}

// all gives the records by id, the least first.
func (a *artifacts) all() []artifactRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]artifactRecord, 0, len(a.records))
	for _, r := range a.records {
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y artifactRecord) int { return strings.Compare(x.ID, y.ID) })
	return all
}

func (a *artifacts) files(id string) string { return filepath.Join(a.dir, id, "files") }

// whole says whether an artifact is recorded and its files have their sizes.
func (a *artifacts) whole(id string) bool {
	r, ok := a.get(id)
	return ok && a.damage(r) == nil
}

func (a *artifacts) damage(r artifactRecord) error {
	root := a.files(r.ID)
	if _, err := os.Stat(root); err != nil {
		return err
	}
	for _, f := range r.Files {
		info, err := os.Lstat(filepath.Join(root, f.Path))
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return fmt.Errorf("%s has %d bytes, want %d", f.Path, info.Size(), f.Size)
		}
	}
	return nil
}

// put makes an artifact: fill writes its files into the given directory. After
// a power cut it is there as a whole or not at all.
func (a *artifacts) put(r artifactRecord, manifest []byte, fill func(files string) error) error {
	staging, err := os.MkdirTemp(a.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging) // swept at the next start if this fails
	files := filepath.Join(staging, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	if err := fill(files); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(staging, "manifest.json"), manifest, 0o600); err != nil {
		return err
	}
	if err := writeRecord(staging, r); err != nil {
		return err
	}
	if err := a.sync(unix.Syncfs); err != nil { // all of it, the directories too
		return err
	}
	return a.swap(r.ID, func(at string) error {
		if err := os.Rename(staging, at); err != nil {
			return err
		}
		a.records[r.ID] = r
		return nil
	})
}

// remove removes an artifact.
func (a *artifacts) remove(id string) error {
	return a.swap(id, func(string) error {
		delete(a.records, id)
		return nil
	})
}

// swap puts something in the place of an artifact. What was there loses its
// name first, so that half of one is never seen.
func (a *artifacts) swap(id string, next func(at string) error) error {
	old, err := os.MkdirTemp(a.dir, ".old-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(old) // can take long: nobody waits for it with the lock
	a.mu.Lock()
	defer a.mu.Unlock()
	at := filepath.Join(a.dir, id)
	if err := os.Rename(at, filepath.Join(old, "artifact")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := next(at); err != nil {
		return err
	}
	return a.sync(unix.Fsync)
}

// update changes the names of an artifact that is there.
func (a *artifacts) update(id string, change func(*artifactRecord)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.records[id]
	if !ok {
		return fmt.Errorf("artifact %s: %w", id, fs.ErrNotExist)
	}
	return a.change(r, change)
}

func (a *artifacts) change(r artifactRecord, change func(*artifactRecord)) error {
	r.Names, r.History, r.Digests = slices.Clone(r.Names), slices.Clone(r.History), slices.Clone(r.Digests)
	change(&r)
	if err := writeRecord(filepath.Join(a.dir, r.ID), r); err != nil {
		return err
	}
	a.records[r.ID] = r
	return nil
}

// disown takes names from all artifacts but one, as the store of images does
// when another image gets them.
func (a *artifacts) disown(names []reference.Named, except string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var failed []error
	for id, r := range a.records {
		for _, name := range names {
			if id != except && slices.Contains(r.Names, name.String()) {
				failed = append(failed, a.change(r, func(r *artifactRecord) { r.lose(name.String()) }))
				r = a.records[id]
			}
		}
	}
	return errors.Join(failed...)
}

func (r *artifactRecord) gain(name string, d digest.Digest) {
	if !slices.Contains(r.Names, name) {
		r.Names = append(r.Names, name)
	}
	if !slices.Contains(r.Digests, d) {
		r.Digests = append(r.Digests, d)
	}
}

func (r *artifactRecord) lose(name string) {
	r.Names = slices.DeleteFunc(r.Names, func(n string) bool { return n == name })
	if !slices.Contains(r.History, name) {
		r.History = append(r.History, name)
	}
}

// sync is syncfs(2) or fsync(2) of the store's directory.
func (a *artifacts) sync(how func(fd int) error) error {
	dir, err := os.Open(a.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := how(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing %s: %w", a.dir, err)
	}
	return nil
}

func writeRecord(dir string, r artifactRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return ioutils.AtomicWriteFile(filepath.Join(dir, "record.json"), data, 0o600)
}

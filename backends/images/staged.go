package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"go.podman.io/storage"
	"go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"
)

// A staged layer is unpacked and verified, and waits beside the store for the
// layers below it: <GraphRoot>/troupe-staged/<digest>-* with the layer's
// files in diff, tar-split as the store keeps it, and a record that is written
// last. It outlives the daemon: one that finds it whole goes on with it. It need
// not outlive a power cut: its data is synced once for all layers of an image,
// when they are committed.
const (
	stagedFiles  = "diff"
	stagedSplit  = "tar-split.gz"
	stagedRecord = "layer.json"
)

// stagedLayer is the record of one.
type stagedLayer struct {
	unpacked
	Digest    digest.Digest
	BlobSize  int64
	TOCDigest digest.Digest     `json:",omitempty"`
	BigData   map[string][]byte `json:",omitempty"` // the store's, of chunked layers
	Boot      string            // of the machine, when it was staged
	dir       string
	synced    bool
}

// earlySync is how much may be staged before it is put on disk while others are
// still coming; nobody waits for it. For less the sync would cost more than it
// spares.
const earlySync = 16 << 20

// bootID tells whether a power cut may have come since.
var bootID = sync.OnceValue(func() string {
	return cmp.Or(backends.BootID(), fmt.Sprint(time.Now().UnixNano())) // not known: that of no other daemon
})

func (s *Store) imageRoot() string { return s.cfg.imageRoot() }

func (s *Store) stagedDir() string { return filepath.Join(s.imageRoot(), "troupe-staged") }

// ready finds a staged layer; nil: there is none.
func (s *Store) ready(l backends.Layer) *stagedLayer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.staged[l.Digest]
}

// take gives a staged layer away: whoever has it puts it into the store, or
// drops it.
func (s *Store) take(l backends.Layer) *stagedLayer {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.staged[l.Digest]
	delete(s.staged, l.Digest)
	return st
}

// newStaged makes the directory of a layer that is about to be unpacked.
func (s *Store) newStaged(l backends.Layer) (string, error) {
	dir, err := os.MkdirTemp(s.stagedDir(), stagedName(l.Digest)+"*")
	if err != nil {
		return "", err
	}
	// 0555 is what the overlay driver gives the root of a layer that says nothing of it.
	return dir, os.Mkdir(filepath.Join(dir, stagedFiles), 0o555)
}

// keep makes an unpacked layer a staged one.
func (s *Store) keep(st *stagedLayer) error {
	st.Boot = bootID()
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	record := filepath.Join(st.dir, stagedRecord)
	if err := os.WriteFile(record+".new", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(record+".new", record); err != nil {
		return err
	}
	s.mu.Lock()
	s.staged[string(st.Digest)] = st
	s.unsynced += st.Size
	much := s.unsynced >= earlySync
	if much {
		s.unsynced = 0
	}
	s.mu.Unlock()
	if much {
		s.syncs.begin(s.imageRoot())
	}
	return nil
}

// syncStaged puts on disk what is staged of an image's layers.
func (s *Store) syncStaged(ctx context.Context, layers []backends.Layer) error {
	var waiting []*stagedLayer
	for _, l := range layers {
		if st := s.ready(l); st != nil {
			waiting = append(waiting, st)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	if err := s.syncs.sync(ctx, s.imageRoot()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range waiting {
		st.synced = true
	}
	return nil
}

// syncOne makes sure of one.
func (s *Store) syncOne(ctx context.Context, st *stagedLayer) error {
	s.mu.Lock()
	synced := st.synced
	s.mu.Unlock()
	if synced {
		return nil
	}
	return s.syncs.sync(ctx, s.imageRoot())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// adopt takes over what an earlier daemon has staged. What it had not come to
// an end with goes meanwhile: a start does not wait for it.
func (s *Store) adopt() error {
	if err := os.MkdirAll(s.stagedDir(), 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.stagedDir())
	if err != nil {
		return err
	}
	var halves []string
	for _, e := range entries {
		dir := filepath.Join(s.stagedDir(), e.Name())
		data, err := backends.ReadFile(filepath.Join(dir, stagedRecord))
		st := &stagedLayer{dir: dir}
		if err == nil && json.Unmarshal(data, st) == nil && st.Boot == bootID() && st.named(e.Name()) && st.complete() && s.staged[string(st.Digest)] == nil {
			s.staged[string(st.Digest)] = st
			continue
		}
		halves = append(halves, dir)
	}
	s.removeBehind(halves)
	return nil
}

// named says whether a record stands in the directory that was made for its
// layer: a record of another one would give its files that layer's digest.
func (st *stagedLayer) named(dir string) bool {
	return st.Digest.Validate() == nil && strings.HasPrefix(dir, stagedName(string(st.Digest)))
}

func stagedName(digest string) string { return strings.ReplaceAll(digest, ":", "-") + "-" }

// complete says whether all of a staged layer is there. A commit that was cut
// off may have taken a part away.
func (st *stagedLayer) complete() bool {
	for _, name := range []string{stagedFiles, stagedSplit} {
		if _, err := os.Stat(filepath.Join(st.dir, name)); err != nil {
			return false
		}
	}
	return true
}

// removeBehind removes what an earlier daemon has left; nobody waits for it.
func (s *Store) removeBehind(halves []string) {
	s.behind.Go(func() {
		for _, dir := range halves {
			if err := os.RemoveAll(dir); err != nil {
				s.log.Warn("what a pull has left stays until the next start", "dir", dir, "error", err)
			}
		}
	})
}

// dropStaged removes a staged layer.
func (s *Store) dropStaged(blob string) {
	st := s.take(backends.Layer{Digest: blob})
	if st == nil {
		return
	}
	if err := os.RemoveAll(st.dir); err != nil {
		s.log.Warn("a staged layer stays until the next start", "layer", st.dir, "error", err)
	}
}

// sweepStaged removes layers that no pull has come back for.
func (s *Store) sweepStaged() {
	s.mu.Lock()
	var old []string
	for blob, st := range s.staged {
		if info, err := os.Stat(filepath.Join(st.dir, stagedRecord)); err != nil || time.Since(info.ModTime()) > blobAge {
			old = append(old, blob)
		}
	}
	s.mu.Unlock()
	for _, blob := range old {
		s.dropStaged(blob)
	}
}

// commitStaged makes a staged layer one of the store's: a rename and a record.
func (s *Store) commitStaged(id, parent string, st *stagedLayer) error {
	split, options := s.splitPath(id), &storage.LayerOptions{UncompressedDigest: st.DiffID}
	if st.TOCDigest == "" {
		options.OriginalDigest, options.OriginalSize = st.Digest, &st.BlobSize
	}
	err := os.Rename(filepath.Join(st.dir, stagedSplit), split)
	if err == nil {
		_, err = s.store.ApplyStagedLayer(storage.ApplyStagedLayerOptions{
			ID: id, ParentLayer: parent, DiffOutput: st.output(),
			LayerOptions: options,
			DiffOptions:  &graphdriver.ApplyDiffWithDifferOpts{},
		})
	}
	return err
}

// splitPath is where the store keeps a layer's tar-split. Written there when
// the layer is staged, it is on disk before the layer is recorded, and not
// compressed under the store's lock.
func (s *Store) splitPath(id string) string {
	return filepath.Join(s.imageRoot(), "overlay-layers", id+".tar-split.gz")
}

func (st *stagedLayer) output() *graphdriver.DriverWithDifferOutput {
	out := &graphdriver.DriverWithDifferOutput{
		Target: filepath.Join(st.dir, stagedFiles), Size: st.Size, UIDs: st.UIDs, GIDs: st.GIDs,
		UncompressedDigest: st.DiffID, TOCDigest: st.TOCDigest, BigData: st.BigData, RootDirMode: st.RootMode,
	}
	if st.TOCDigest == "" { // else the blob as a whole was never seen
		out.CompressedDigest = st.Digest
	}
	return out
}

// syncs puts a file system's data on disk. Whoever comes while a sync runs
// waits for the next one, which is then for all of them.
type syncs struct {
	mu      sync.Mutex
	running bool
	waiting []chan error
}

func (s *syncs) sync(ctx context.Context, path string) error {
	done := s.begin(path)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the disk: %w", ctx.Err())
	}
}

// begin asks for a sync that begins from now on, and does not wait.
func (s *syncs) begin(path string) <-chan error {
	done := make(chan error, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, done)
	if !s.running {
		s.running = true
		go s.run(path)
	}
	return done
}

func (s *syncs) run(path string) {
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		if len(batch) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := syncfs(path)
		for _, done := range batch {
			done <- err
		}
	}
}

func syncfs(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", path, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/messages"

	"github.com/troupe-run/troupe/backends"
)

// countBudget bounds the time one Usage spends on counting files of layers it
// has not seen before; the next call goes on.
const countBudget = 2 * time.Second

// inodes is how many files a layer has.
type inodes uint64

// Usage is the sum of the layers' sizes (staged ones too) and of the images'
// data, as the store has recorded them: the content, not the blocks it takes. Files are counted
// once per layer, when it is unpacked or, of those that other tools have made,
// when they are first seen; the counts are kept in a file. Until all have been
// seen the number of inodes may be too low.
func (s *Store) Usage(ctx context.Context) (messages.Filesystem, error) {
	use := messages.Filesystem{Mountpoint: s.imageRoot(), At: time.Now()}
	layers, err := s.store.Layers()
	if err != nil {
		return use, storeError(err, "use of the image store")
	}
	records, err := s.store.Images()
	if err != nil {
		return use, storeError(err, "use of the image store")
	}
	for _, record := range records {
		for _, n := range record.BigDataSizes {
			use.UsedBytes += uint64(max(n, 0))
		}
	}
	for _, record := range s.artifacts.all() {
		use.UsedBytes += record.size()
		use.Inodes += uint64(len(record.Files))
	}
	s.mu.Lock()
	for _, st := range s.staged {
		use.UsedBytes += uint64(max(st.Size, 0))
		use.Inodes += st.Files
	}
	s.mu.Unlock()
	alive := map[string]bool{}
	for _, layer := range layers {
		alive[layer.ID] = true
		use.UsedBytes += uint64(max(layer.UncompressedSize, 0))
		n, known := s.counted(layer.ID)
		if !known && time.Since(use.At) < countBudget {
			if n, err = s.count(ctx, layer.ID); err != nil {
				return use, fmt.Errorf("use of the image store: %w", err)
			}
			s.setCount(layer.ID, n)
		}
		use.Inodes += uint64(n)
	}
	s.keepCounts(alive)
	return use, nil
}

func (s *Store) counted(layer string) (inodes, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.files[layer]
	return n, ok
}

// counts takes over how many files were unpacked. Of a layer whose files came
// one by one that is not known.
func (s *Store) counts(layer string, st *stagedLayer) {
	if st.Files > 0 {
		s.setCount(layer, inodes(st.Files)+1) // the directory they are in
	}
}

func (s *Store) setCount(layer string, n inodes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[layer] != n {
		s.files[layer], s.filesNew = n, true
	}
}

func (s *Store) countsPath() string { return filepath.Join(s.cfg.GraphRoot, "troupe-inodes.json") }

// loadCounts reads what an earlier daemon has counted. It can be counted again:
// a file that is missing or torn is no error.
func (s *Store) loadCounts() {
	files := map[string]inodes{}
	data, err := backends.ReadFile(s.countsPath())
	if err == nil {
		err = json.Unmarshal(data, &files)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the number of files of each layer is counted anew", "error", err)
		return
	}
	s.files = files
}

// keepCounts forgets layers that have gone, and writes the counts when they are
// others than those of before.
func (s *Store) keepCounts(alive map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.files)
	maps.DeleteFunc(s.files, func(layer string, _ inodes) bool { return !alive[layer] })
	if !s.filesNew && before == len(s.files) {
		return
	}
	data, err := json.Marshal(s.files)
	next := s.countsPath() + ".new"
	if err == nil {
		err = os.WriteFile(next, data, 0o600)
	}
	if err == nil {
		err = os.Rename(next, s.countsPath())
	}
	if err != nil {
		s.log.Warn("the next daemon will count the files of all layers again", "error", err)
		return
	}
	s.filesNew = false
}

// count walks one layer. What vanishes on the way (the layer is being removed)
// does not count.
func (s *Store) count(ctx context.Context, layer string) (n inodes, err error) {
	driver, err := s.store.GraphDriver()
	if err != nil {
		return 0, err
	}
	metadata, err := driver.Metadata(layer)
	if err != nil {
		return 0, nil
	}
	err = filepath.WalkDir(metadata["UpperDir"], func(string, fs.DirEntry, error) error {
		n++
		return ctx.Err()
	})
	return n, err
}

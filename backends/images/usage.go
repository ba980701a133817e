package images

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/messages"
)

// countBudget bounds the time one Usage spends on counting files of layers it
// has not seen before; the next call goes on.
const countBudget = 2 * time.Second

// inodes is how many files a layer has.
type inodes uint64

// Usage is the sum of the layers' sizes (staged ones too) and of the images' data, as the store
// has recorded them: the content, not the blocks it takes. Files are counted
// once per layer, since a layer never changes; right after a start the number
// of inodes may be too low until all have been seen.
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
	alive := map[string]inodes{}
	for _, layer := range layers {
		use.UsedBytes += uint64(max(layer.UncompressedSize, 0))
		n, known := s.counted(layer.ID)
		if !known && time.Since(use.At) < countBudget {
			if n, err = s.count(ctx, layer.ID); err != nil {
				return use, fmt.Errorf("use of the image store: %w", err)
			}
			known = true
		}
		if known {
			alive[layer.ID] = n
			use.Inodes += uint64(n)
		}
	}
	s.mu.Lock()
	s.files = alive
	s.mu.Unlock()
	return use, nil
}

func (s *Store) counted(layer string) (inodes, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.files[layer]
	return n, ok
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

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends"
)

// The blob cache: <digest> is whole and verified, <digest>.partial is neither.
// A blob lives from its download to the commit of its image; one whose pull
// has failed is kept for the retry, for a while.
const (
	partialSuffix = ".partial"
	blobAge       = 6 * time.Hour
	sweepEvery    = time.Hour
)

func (s *Store) blobPath(digest string) string {
	return filepath.Join(s.cfg.BlobDir, strings.ReplaceAll(digest, ":", "-"))
}

func (s *Store) cached(l backends.Layer) bool {
	info, err := os.Stat(s.blobPath(l.Digest))
	return err == nil && info.Mode().IsRegular() && (l.Size < 0 || info.Size() == l.Size)
}

// keepBlob makes a downloaded blob part of the cache: data on disk first, then
// the name, then the directory.
func (s *Store) keepBlob(file *os.File, partial, digest string) error {
	if err := file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", partial, err)
	}
	if err := os.Rename(partial, s.blobPath(digest)); err != nil {
		return err
	}
	dir, err := os.Open(s.cfg.BlobDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// dropBlobs forgets blobs, except one that somebody is fetching just now.
func (s *Store) dropBlobs(layers []backends.Layer) {
	for _, l := range layers {
		if s.blobLocks.busy(l.Digest) {
			continue
		}
		if err := os.Remove(s.blobPath(l.Digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("blob of a committed layer stays until it is swept", "blob", l.Digest, "error", err)
		}
	}
}

func (s *Store) sweepSometimes() {
	s.mu.Lock()
	due := time.Since(s.swept) > sweepEvery
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.sweepBlobs(false); err != nil {
		s.log.Warn("image blob cache", "error", err)
	}
}

// sweepBlobs removes what no pull has come back for. Partial ones are removed
// only at start, when nobody can be writing them.
func (s *Store) sweepBlobs(start bool) error {
	s.mu.Lock()
	s.swept = time.Now()
	s.mu.Unlock()
	entries, err := os.ReadDir(s.cfg.BlobDir)
	if err != nil {
		return fmt.Errorf("image blob cache: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		partial := strings.HasSuffix(e.Name(), partialSuffix)
		if (partial && start) || (!partial && time.Since(info.ModTime()) > blobAge) {
			if err := os.Remove(filepath.Join(s.cfg.BlobDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("image blob cache: %w", err)
			}
		}
	}
	return nil
}

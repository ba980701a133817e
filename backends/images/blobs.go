package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends"
)

// The blob cache: <digest>.partial is what has come of a blob, <digest> the
// whole file of an artifact. It lives from the first byte until the layer is
// staged, or the artifact is committed; that of a pull that has failed, or
// of a daemon that was killed, is kept for the retry, for a while.
const (
	partialSuffix = ".partial"
	blobAge       = 6 * time.Hour
	sweepEvery    = time.Hour
)

func (s *Store) blobPath(digest string) string {
	return filepath.Join(s.cfg.BlobDir, strings.ReplaceAll(digest, ":", "-"))
}

// dropFetched forgets what was fetched of layers, except of one that somebody
// is at just now.
func (s *Store) dropFetched(layers []backends.Layer) {
	for _, l := range layers {
		s.dropStaged(l.Digest)
		if s.blobLocks.busy(l.Digest) {
			continue
		}
		whole := s.blobPath(l.Digest) // of artifacts only
		if err := errors.Join(ignoreMissing(os.Remove(whole+partialSuffix)), ignoreMissing(os.Remove(whole))); err != nil {
			s.log.Warn("a blob stays until it is swept", "blob", l.Digest, "error", err)
		}
	}
}

// dropLimit is how long a layer that is being fetched may take to see that its
// pull has failed.
const dropLimit = 10 * time.Second

// dropSoon forgets what was fetched of layers of a pull that has failed. Those
// that are being fetched just now are waited for: they are about to end.
func (s *Store) dropSoon(layers []backends.Layer) {
	ctx, cancel := context.WithTimeout(context.Background(), dropLimit)
	defer cancel()
	for _, l := range layers {
		if unlock, err := s.blobLocks.lock(ctx, l.Digest); err == nil {
			unlock()
		}
	}
	s.dropFetched(layers)
}

func (s *Store) sweepSometimes() {
	s.mu.Lock()
	due := time.Since(s.swept) > sweepEvery
	s.mu.Unlock()
	if !due {
		return
	}
	s.sweepStaged()
	s.sweepApplied()
	if err := s.sweepBlobs(); err != nil {
		s.log.Warn("image blob cache", "error", err)
	}
}

// sweepBlobs removes what no pull has come back for.
func (s *Store) sweepBlobs() error {
	s.mu.Lock()
	s.swept = time.Now()
	s.mu.Unlock()
	entries, err := os.ReadDir(s.cfg.BlobDir)
	if err != nil {
		return fmt.Errorf("image blob cache: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < blobAge {
			continue
		}
		if err := ignoreMissing(os.Remove(filepath.Join(s.cfg.BlobDir, e.Name()))); err != nil {
			return fmt.Errorf("image blob cache: %w", err)
		}
	}
	return nil
}

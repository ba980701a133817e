package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
)

// Layers in the store that no image has yet: those of a pull under way. Each has
// a marker beside the blobs, written before the layer is made. A pull that fails
// in Commit takes them back; those that Apply has made for a pull that has not
// come to its Commit wait for the next try as long as blobs do, also for that of
// a later daemon, but not of a later boot.

// Apply puts the first n layers into the store while others still come.
func (s *Store) Apply(ctx context.Context, r backends.PullRequest, m backends.Manifest, n int) error {
	res, err := opaque(m)
	if err != nil {
		return err
	}
	if res.artifact != nil || res.useless.Load() || n > len(m.Layers) {
		return nil
	}
	chain := chainIDs(m.Layers[:n])
	s.layers.hold(chain)
	defer func() {
		if res.useless.Load() {
			s.letGo(chain)
		} else {
			s.layers.unhold(chain)
		}
	}()
	return s.putLayers(ctx, r, m, n)
}

func (s *Store) letGo(chain []string) {
	if err := s.layers.release(chain, s.dropUnused); err != nil {
		s.log.Error("layers of a failed pull stay until the next start", "error", err)
	}
}

// dropUnused removes a layer, unless an image or another layer has it.
func (s *Store) dropUnused(id string) error {
	if _, err := s.store.Layer(id); err != nil {
		return nil // was never made
	}
	if err := s.store.DeleteLayer(id); err != nil && unused(err) {
		return fmt.Errorf("layer %s: %w", id, err)
	}
	return nil
}

// dropApplied takes back what Apply has made of a pull that is over.
func (s *Store) dropApplied(layers []backends.Layer) {
	chain := chainIDs(layers)
	s.layers.hold(chain)
	s.letGo(chain)
}

// sweepApplied removes layers that no pull has come back for, but for those that
// others lie on which stay.
func (s *Store) sweepApplied() {
	old := s.layers.idle(time.Now().Add(-blobAge))
	if len(old) == 0 {
		return
	}
	all, err := s.store.Layers()
	if err != nil {
		s.log.Warn("layers of failed pulls stay until they are swept", "error", err)
		return
	}
	carries := map[string]bool{}
	var chain []string
	for _, l := range slices.Backward(all) { // a parent is older than its children
		if carries[l.ID] || !slices.Contains(old, l.ID) {
			carries[l.Parent] = true
			continue
		}
		chain = append(chain, l.ID)
	}
	slices.Reverse(chain)
	s.layers.hold(chain)
	s.letGo(chain)
}

func (s *Store) markerDir() string           { return filepath.Join(s.cfg.BlobDir, "layers") }
func (s *Store) markerPath(id string) string { return filepath.Join(s.markerDir(), id) }
func unused(err error) bool {
	return !errors.Is(err, storage.ErrLayerUsedByImage) && !errors.Is(err, storage.ErrLayerHasChildren) &&
		!errors.Is(err, storage.ErrLayerUsedByContainer)
}

// dropLeftLayers removes the layers that a daemon was making, before a reboot or
// a power cut, for images it did not come to record. Only layers with our marker
// are looked at: others may belong to a pull that podman has under way.
func (s *Store) dropLeftLayers() error {
	entries, err := os.ReadDir(s.markerDir())
	if err != nil {
		return fmt.Errorf("image blob cache: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		return s.whole(e.Name()) && s.layers.adopt(s.markerPath(e.Name()), e.Name())
	})
	for again := true; again; { // parents become free after their children
		again = false
		for _, e := range entries {
			if _, err := s.store.Layer(e.Name()); err == nil && s.store.DeleteLayer(e.Name()) == nil {
				s.log.Info("removed a layer of an interrupted pull", "layer", e.Name())
				again = true
			}
		}
	}
	for _, e := range entries {
		// A commit that was cut off between the two has left the one without the other.
		if _, err := s.store.Layer(e.Name()); errors.Is(err, storage.ErrLayerUnknown) {
			_ = os.Remove(s.splitPath(e.Name()))
		}
		if err := os.Remove(s.markerPath(e.Name())); err != nil {
			return messages.Errorf(messages.Internal, "image blob cache: %w", err)
		}
	}
	return nil
}

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
)

// replaceLayer puts a staged layer into the place of one that is recorded and
// not whole. The record, the layers above it and the containers that use them
// stay as they are. The caller holds layerLocks of the id and syncs afterwards.
func (s *Store) replaceLayer(id string, st *stagedLayer) error {
	layer, err := s.store.Layer(id)
	if err != nil {
		return fmt.Errorf("replacing layer %s: %w", id, err)
	}
	if layer.UncompressedDigest != st.DiffID {
		return messages.Errorf(messages.Internal, "replacing layer %s: its content is recorded as %q, what was unpacked is %q", id, layer.UncompressedDigest, st.DiffID)
	}
	if err := s.makeRoom(id); err != nil {
		return fmt.Errorf("replacing layer %s: %w", id, err)
	}
	if err := os.Rename(filepath.Join(st.dir, stagedSplit), s.splitPath(id)); err != nil {
		return fmt.Errorf("replacing layer %s: %w", id, err)
	}
	// Of a layer that is recorded the library replaces the directory.
	if _, err := s.store.ApplyStagedLayer(storage.ApplyStagedLayerOptions{ID: id, DiffOutput: st.output()}); err != nil {
		return fmt.Errorf("replacing layer %s: %w", id, err)
	}
	s.counts(id, st)
	s.log.Info("a damaged layer was replaced by a whole one", "layer", id)
	return nil
}

// makeRoom prepares the layer's place for the driver, which removes what is
// there before it renames: containers may have it mounted. The driver wants to
// find something. A file will do, and unlike an empty directory nobody takes it
// for a layer if the power is cut now.
func (s *Store) makeRoom(id string) error {
	if err := s.restoreFrame(id); err != nil {
		return err
	}
	diff := placeIn(s.imageRoot(), id).diff
	if _, err := os.Lstat(diff); err == nil {
		images, err := s.imagesOf(id)
		if err != nil {
			return err
		}
		if err := s.quarantine(diff, note{Layer: id, What: "it was replaced", Images: images}); err != nil {
			return err
		}
	}
	return os.WriteFile(diff, nil, 0o600)
}

// imagesOf are the ids of the images that have a layer.
func (s *Store) imagesOf(layer string) (ids []string, err error) {
	layers, err := s.store.Layers()
	if err != nil {
		return nil, err
	}
	records, err := s.store.Images()
	if err != nil {
		return nil, err
	}
	for _, image := range usersOf(layers, records)[layer] {
		ids = append(ids, image.ID)
	}
	return ids, nil
}

// restoreFrame makes anew what the driver keeps beside a layer's files, when
// the layer's whole directory has gone: its short name, which the layers above
// know it by, and those below it.
func (s *Store) restoreFrame(id string) error {
	home := filepath.Join(s.imageRoot(), "overlay")
	dir := filepath.Join(home, id)
	layer, err := s.store.Layer(id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "work"), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "link")); err == nil {
		return nil
	}
	link, err := shortName(home, id)
	if err != nil {
		return err
	}
	if layer.Parent == "" {
		if err := os.MkdirAll(filepath.Join(dir, "empty"), 0o700); err != nil {
			return err
		}
	} else if err := restoreLowers(home, id, layer.Parent); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "link"), []byte(link), 0o644) // last: it says that all is there
}

// shortName finds the link in overlay/l that leads to a layer.
func shortName(home, id string) (string, error) {
	links, err := os.ReadDir(filepath.Join(home, "l"))
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if to, err := os.Readlink(filepath.Join(home, "l", l.Name())); err == nil && to == filepath.Join("..", id, "diff") {
			return l.Name(), nil
		}
	}
	return "", messages.Errorf(messages.Internal, "nothing in %s leads to it any more; remove its images (podman rmi) and pull them again", filepath.Join(home, "l"))
}

func restoreLowers(home, id, parent string) error {
	short, err := os.ReadFile(filepath.Join(home, parent, "link"))
	if err != nil {
		return fmt.Errorf("the layer below it: %w", err)
	}
	for file, below := range map[string]string{"lower": filepath.Join("l", string(short)), "lower-layers": parent} {
		lowers := []string{below}
		more, err := os.ReadFile(filepath.Join(home, parent, file))
		if err == nil && len(more) > 0 {
			lowers = append(lowers, string(more))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(filepath.Join(home, id, file), []byte(strings.Join(lowers, ":")), 0o644); err != nil {
			return err
		}
	}
	return nil
}

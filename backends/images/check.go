package images

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
)

// Check implements backends.Images.
func (s *Store) Check(ctx context.Context, progress func(done, total int)) ([]messages.Damage, error) {
	layers, err := s.store.Layers()
	if err != nil {
		return nil, storeError(err, "checking images")
	}
	records, err := s.store.Images()
	if err != nil {
		return nil, storeError(err, "checking images")
	}
	users := usersOf(layers, records)
	var found []messages.Damage
	for i := range layers {
		if progress != nil {
			progress(i, len(layers))
		}
		what, err := s.checkLayer(ctx, &layers[i])
		if err != nil {
			return found, storeError(err, "checking layer %s", layers[i].ID)
		}
		if what == nil {
			continue
		}
		d, err := s.condemn(ctx, &layers[i], what, users[layers[i].ID])
		if err != nil {
			return found, storeError(err, "layer %s is damaged (%v) and could not be put into quarantine", layers[i].ID, what)
		}
		if d != nil {
			found = append(found, *d)
		}
	}
	for i := range records {
		found = append(found, s.checkData(&records[i])...)
		found = append(found, s.checkChain(&records[i])...)
	}
	if progress != nil {
		progress(len(layers), len(layers))
	}
	return found, ctx.Err()
}

// usersOf are the images that have each layer.
func usersOf(layers []storage.Layer, records []storage.Image) map[string][]*storage.Image {
	parents := map[string]string{}
	for i := range layers {
		parents[layers[i].ID] = layers[i].Parent
	}
	users := map[string][]*storage.Image{}
	for i := range records {
		for _, top := range append([]string{records[i].TopLayer}, records[i].MappedTopLayers...) {
			for id := top; id != ""; id = parents[id] {
				if !slices.Contains(users[id], &records[i]) {
					users[id] = append(users[id], &records[i])
				}
			}
		}
	}
	return users
}

// checkLayer gives what is wrong with a layer, or nil. One that was removed or
// made anew meanwhile is looked at again.
func (s *Store) checkLayer(ctx context.Context, layer *storage.Layer) (what, err error) {
	if layer.UncompressedDigest == "" || layer.UncompressedDigest.Validate() != nil {
		return nil, nil // a container's own, which changes; or nothing is known to compare it with
	}
	place, err := s.placeOf(layer)
	if err != nil {
		return nil, err
	}
	metadata := len(layer.UIDMap) == 0 && len(layer.GIDMap) == 0 && !s.masked()
	for range 3 {
		before := inode(place.diff)
		err := place.verify(ctx, layer.UncompressedDigest, metadata)
		var wrong damaged
		if !errors.As(err, &wrong) {
			return nil, err
		}
		now, err := s.store.Layer(layer.ID)
		if errors.Is(err, storage.ErrLayerUnknown) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if now.Created.Equal(layer.Created) && inode(place.diff) == before {
			return wrong.error, nil
		}
		layer = now
	}
	return nil, messages.Errorf(messages.Busy, "it was made anew each time it was read; check again")
}

// masked says whether the driver was told to give files other owners or modes
// than their headers say.
func (s *Store) masked() bool {
	return slices.ContainsFunc(s.cfg.StorageOptions, func(o string) bool {
		return strings.Contains(o, "force_mask=") || strings.Contains(o, "ignore_chown_errors=true")
	})
}

// placeOf finds a layer's files; those of an additional image store are there.
func (s *Store) placeOf(layer *storage.Layer) (layerPlace, error) {
	if !layer.ReadOnly {
		return placeIn(s.imageRoot(), layer.ID), nil
	}
	driver, err := s.store.GraphDriver()
	if err != nil {
		return layerPlace{}, err
	}
	metadata, err := driver.Metadata(layer.ID)
	if err != nil {
		return layerPlace{}, err
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(metadata["UpperDir"])))
	return placeIn(root, layer.ID), nil
}

// inode is a directory's identity; 0 when there is none.
func inode(path string) uint64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// condemn puts a damaged layer into quarantine, unless a pull has just brought
// another in its place.
func (s *Store) condemn(ctx context.Context, layer *storage.Layer, what error, users []*storage.Image) (*messages.Damage, error) {
	d := &messages.Damage{Layer: layer.ID, What: what.Error()}
	n := note{Layer: layer.ID, What: d.What}
	for _, image := range users {
		d.Images = append(d.Images, s.damagedImage(image))
		n.Images = append(n.Images, image.ID)
	}
	if layer.ReadOnly {
		return d, nil // not ours to move
	}
	unlock, err := s.layerLocks.lock(ctx, layer.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	again, err := s.checkLayer(ctx, layer) // a pull may have been at it until now
	if again == nil || err != nil {
		return nil, err
	}
	if err := s.quarantine(placeIn(s.imageRoot(), layer.ID).diff, n); err != nil {
		return nil, err
	}
	d.Quarantined = true
	s.log.Error("a layer is damaged; it is put aside, and its images must be pulled again", "layer", layer.ID, "what", d.What, "images", d.Names())
	return d, nil
}

// damagedImage names an image for people, and for a pull that brings this very one.
func (s *Store) damagedImage(record *storage.Image) messages.DamagedImage {
	tags, digests := names(record, s.topDigests(record))
	image := messages.DamagedImage{ID: record.ID, Name: record.ID}
	for _, name := range slices.Concat(digests, tags) {
		image.Name = name // a tag, if there is one
	}
	if len(digests) > 0 {
		image.Ref = digests[0]
	}
	return image
}

package images

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
)

// Remove removes the image with all its names, and the layers nothing else
// uses. A layer that a running commit counts on stays; that commit drops it if
// it fails. An image that a podman or buildah container uses is refused.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("removing image %s: %w", id, err)
	}
	if _, ok := s.artifacts.get(id); ok {
		if err := s.artifacts.remove(id); err != nil {
			return storeError(err, "removing artifact %s", id)
		}
		return nil
	}
	record, err := s.store.Image(id)
	if errors.Is(err, storage.ErrImageUnknown) {
		return nil
	}
	if err != nil {
		return storeError(err, "removing image %s", id)
	}
	if record.ReadOnly {
		return messages.Errorf(messages.Precondition, "image %s is in an additional image store, which is only read: remove it there", id)
	}
	failpoint.Hit("image", "remove", "before")
	defer failpoint.Hit("image", "remove", "after")
	err = s.layers.without(func(layers still) error { return s.remove(record, layers) })
	if errors.Is(err, storage.ErrNotAnImage) || errors.Is(err, storage.ErrImageUnknown) {
		return nil
	}
	if errors.Is(err, storage.ErrImageUsedByContainer) {
		return messages.Errorf(messages.Precondition, "image %s is used by a container of another tool (podman ps -a --external shows it): %w", id, err)
	}
	if err != nil {
		return storeError(err, "removing image %s", id)
	}
	return nil
}

func (s *Store) remove(record *storage.Image, applied still) error {
	layers, err := s.store.DeleteImage(record.ID, false) // what would go, and whether it may
	if err != nil {
		return err
	}
	// The library names a layer of an additional store as well, and then fails.
	ours := slices.DeleteFunc(slices.Clone(layers), s.isReadOnly)
	var stays []string
	if applied.unfinished() {
		stays = slices.DeleteFunc(s.idsOf(record), func(id string) bool { return slices.Contains(layers, id) || s.isReadOnly(id) })
	}
	if len(ours) == len(layers) && !slices.ContainsFunc(layers, applied.held) {
		_, err = s.store.DeleteImage(record.ID, true)
	} else {
		err = s.removeFree(record.ID, ours, applied)
	}
	if err != nil {
		return err
	}
	for _, id := range stays { // maybe only because a layer without an image lies on it
		err = errors.Join(err, applied.handOver(s.markerPath(id), id))
	}
	return err
}

// removeFree removes a record, and of its layers those nobody holds.
func (s *Store) removeFree(id string, layers []string, applied still) error {
	err := s.store.Delete(id)
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if applied.held(layer) {
			err = errors.Join(err, applied.handOver(s.markerPath(layer), layer))
		} else if drop := s.store.DeleteLayer(layer); drop != nil && unused(drop) {
			err = errors.Join(err, fmt.Errorf("layer %s: %w", layer, drop))
		}
	}
	return err
}

// idsOf are an image's layers, as far as the store knows them.
func (s *Store) idsOf(record *storage.Image) (ids []string) {
	for id := record.TopLayer; id != ""; {
		layer, err := s.store.Layer(id)
		if err != nil {
			break
		}
		ids, id = append(ids, id), layer.Parent
	}
	return ids
}

func (s *Store) isReadOnly(layer string) bool {
	l, err := s.store.Layer(layer)
	return err == nil && l.ReadOnly
}

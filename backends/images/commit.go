package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"
)

var (
	_ = failpoint.Declare("image", "layers", "before")
	_ = failpoint.Declare("image", "layer", "before")
	_ = failpoint.Declare("image", "layers", "after")
	_ = failpoint.Declare("image", "data", "after")
	_ = failpoint.Declare("image", "record", "before")
	_ = failpoint.Declare("image", "record", "unnamed")
	_ = failpoint.Declare("image", "record", "after")
	_ = failpoint.Declare("image", "synced")
	_ = failpoint.Declare("image", "dropped")
	_ = failpoint.Declare("image", "remove", "before")
	_ = failpoint.Declare("image", "remove", "after")
)

// Commit applies the fetched layers in order and records the image. Whatever
// goes wrong, no layer stays that belongs to no image.
func (s *Store) Commit(ctx context.Context, r backends.PullRequest, m backends.Manifest) (messages.Image, error) {
	res, err := opaque(m)
	if err != nil {
		return messages.Image{}, err
	}
	defer res.source.Close()
	if res.artifact != nil {
		return s.commitArtifact(ctx, r, m, res)
	}
	chain := chainIDs(m.Layers)
	s.layers.hold(chain)
	defer s.letGo(chain)
	failpoint.Hit("image", "layers", "before")
	if !s.present(res, m.Layers) {
		if err := s.putLayers(ctx, r, m, len(chain)); err != nil {
			return messages.Image{}, err
		}
		failpoint.Hit("image", "layers", "after")
		if err := s.layData(res); err != nil {
			return messages.Image{}, storeError(err, "data of image %s", m.Ref)
		}
		failpoint.Hit("image", "data", "after")
		// The library does not sync what it makes around a layer's files. On disk
		// before an image counts on it; what no image has yet goes at the next start.
		if err := s.syncs.sync(ctx, s.imageRoot()); err != nil {
			return messages.Image{}, storeError(err, "layers of image %s", m.Ref)
		}
	}
	top := ""
	if len(chain) > 0 {
		top = chain[len(chain)-1]
	}
	if err := ctx.Err(); err != nil {
		return messages.Image{}, storeError(err, "image %s", m.Ref)
	}
	failpoint.Hit("image", "record", "before")
	if err := s.record(res, top); err != nil {
		return messages.Image{}, storeError(err, "recording image %s", m.Ref)
	}
	failpoint.Hit("image", "record", "after")
	if err := s.keepSignatures(res); err != nil {
		return messages.Image{}, storeError(err, "signatures of image %s", m.Ref)
	}
	// The library syncs the files it records in, not their names. Whoever has
	// the answer may count on the image.
	if err := s.syncRecord(m.ConfigID); err != nil {
		return messages.Image{}, storeError(err, "recording image %s", m.Ref)
	}
	failpoint.Hit("image", "synced")
	s.dropFetched(m.Layers)
	failpoint.Hit("image", "dropped")
	record, err := s.store.Image(m.ConfigID)
	if err != nil {
		return messages.Image{}, storeError(err, "image %s", m.Ref)
	}
	return s.describe(record)
}

// putLayers makes sure that the first n layers are in the store.
func (s *Store) putLayers(ctx context.Context, r backends.PullRequest, m backends.Manifest, n int) error {
	chain := chainIDs(m.Layers)
	if err := s.syncStaged(ctx, m.Layers[:n]); err != nil {
		return storeError(err, "image %s", m.Ref)
	}
	for i, l := range m.Layers[:n] {
		failpoint.Hit("image", "layer", "before")
		err := ctx.Err()
		if err == nil {
			err = s.putLayer(ctx, r, m, chain, i)
		}
		if err != nil {
			return storeError(err, "layer %d of %d of %s (%s)", i+1, len(m.Layers), m.Ref, l.Digest)
		}
	}
	return nil
}

// present says whether the store has this very image. The record's id, the
// digest of the configuration, is not enough: a registry that serves a known
// configuration with other layers must not be given the known image.
func (s *Store) present(res *resolved, layers []backends.Layer) bool {
	record, err := s.store.Image(res.config.digest.Encoded())
	if err != nil || record.ID != res.config.digest.Encoded() {
		return false
	}
	if _, err := s.chainDirs(record.TopLayer); err != nil || (record.TopLayer == "" && len(layers) > 0) {
		return false
	}
	return slices.Contains(record.Digests, res.image.digest) ||
		!slices.ContainsFunc(layers, func(l backends.Layer) bool { return s.stored(l) == "" })
}

// record makes the image's record, or adds to the one that is there, and moves
// the name to it.
func (s *Store) record(res *resolved, top string) error {
	id := res.config.digest.Encoded()
	items := bigData(res)
	options := &storage.ImageOptions{BigData: items, CreationDate: created(res.config.data)}
	// It gets its names last: what a power cut leaves before that has none, and
	// goes at the next start when its data is not all there (dropTornImages).
	_, err := s.store.CreateImage(id, nil, top, "{}", options)
	isNew := err == nil
	failpoint.Hit("image", "record", "unnamed")
	if errors.Is(err, storage.ErrDuplicateID) {
		err = s.addBigData(id, items)
	}
	if err == nil {
		err = s.name(id, res)
	}
	if err != nil && isNew {
		_, undo := s.store.DeleteImage(id, true)
		err = errors.Join(err, undo)
	}
	if err != nil {
		return err
	}
	if err := s.artifacts.disown(res.names(), ""); err != nil {
		return fmt.Errorf("taking the name %s from an artifact: %w", res.named, err)
	}
	return nil
}

// layData puts the data of an image that is about to be recorded where the store
// keeps it, to be synced together with its layers. The library writes the same
// again, each file beside the old one and synced: whatever a power cut leaves of
// that, the data is there before a record can name it.
func (s *Store) layData(res *resolved) error {
	id := res.config.digest.Encoded()
	if _, err := s.store.Image(id); err == nil {
		return nil
	}
	dir := s.dataDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, item := range bigData(res) {
		if err := os.WriteFile(filepath.Join(dir, dataFileName(item.Key)), item.Data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// dataDir is where the store keeps what belongs to an image's record.
func (s *Store) dataDir(id string) string { return filepath.Join(s.imageRoot(), "overlay-images", id) }

// syncRecord puts the names of the files of a record on disk.
func (s *Store) syncRecord(id string) error {
	return errors.Join(ignoreMissing(syncDir(s.dataDir(id))), syncDir(filepath.Dir(s.dataDir(id))))
}

// name takes the image's names from the images that had them.
func (s *Store) name(id string, res *resolved) error {
	var names []string
	for _, name := range res.names() {
		names = append(names, name.String())
	}
	if err := s.store.AddNames(id, names); err != nil {
		return fmt.Errorf("naming image %s %q: %w", id, res.named, err)
	}
	return nil
}

// addBigData brings the manifests another name was found by to a record; the
// ones it has are the same by their digest.
func (s *Store) addBigData(id string, items []storage.ImageBigDataOption) error {
	record, err := s.store.Image(id)
	if err != nil {
		return err
	}
	for _, item := range items {
		// What a check has found damaged it has put aside, and names stay.
		if slices.Contains(record.BigDataNames, item.Key) && s.wrongData(record, item.Key) == nil {
			continue
		}
		if err := s.store.SetImageBigData(id, item.Key, item.Data, manifest.Digest); err != nil {
			return fmt.Errorf("storing %s of image %s: %w", item.Key, id, err)
		}
	}
	return nil
}

// bigData is what the storage transport keeps with an image, under its keys.
func bigData(res *resolved) []storage.ImageBigDataOption {
	key := func(d document) string {
		return storage.ImageDigestManifestBigDataNamePrefix + "-" + d.digest.String()
	}
	items := []storage.ImageBigDataOption{
		{Key: res.config.digest.String(), Data: res.config.data, Digest: res.config.digest},
		{Key: key(res.image), Data: res.image.data, Digest: res.image.digest},
		{Key: storage.ImageDigestBigDataKey, Data: res.image.data, Digest: res.image.digest},
	}
	if !bytes.Equal(res.top.data, res.image.data) {
		items = append(items, storage.ImageBigDataOption{Key: key(res.top), Data: res.top.data, Digest: res.top.digest})
	}
	return items
}

func created(config []byte) time.Time {
	var image ispec.Image
	if err := json.Unmarshal(config, &image); err != nil || image.Created == nil {
		return time.Time{}
	}
	return *image.Created
}

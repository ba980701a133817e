package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
)

// chainIDs are the ids of an image's layers in the store, the lowest first: the
// scheme of the library's storage transport, so that a layer is the same one
// whoever pulled it.
func chainIDs(layers []backends.Layer) []string {
	ids := make([]string, 0, len(layers))
	parent := ""
	for _, l := range layers {
		id := digest.Digest(l.DiffID).Encoded()
		if parent != "" {
			id = digest.FromString(parent + "+" + id).Encoded()
		}
		ids, parent = append(ids, id), id
	}
	return ids
}

// stored finds a whole layer in the store that was made from this very blob. A
// DiffID alone is not enough: it comes from the image's configuration, and an
// image that names a stranger's DiffID must not get the stranger's files.
func (s *Store) stored(l backends.Layer) string {
	layers, err := s.store.LayersByUncompressedDigest(digest.Digest(l.DiffID))
	if err != nil {
		return "" // none is known
	}
	for _, candidate := range layers {
		if madeFrom(&candidate, l) && s.whole(candidate.ID) {
			return candidate.ID
		}
	}
	return ""
}

// whole says whether a layer is recorded and its own directory is there: those
// below it may be in quarantine, and are fetched by themselves.
func (s *Store) whole(id string) bool {
	layer, err := s.store.Layer(id)
	if err != nil {
		return false
	}
	place, err := s.placeOf(layer)
	return err == nil && isDirectory(place.diff) == nil
}

// madeFrom says whether a layer of the store was made from this blob.
func madeFrom(layer *storage.Layer, l backends.Layer) bool {
	return layer.UncompressedDigest.String() == l.DiffID &&
		(l.Digest == l.DiffID || layer.CompressedDigest.String() == l.Digest ||
			(layer.TOCDigest != "" && layer.TOCDigest == tocOf(l)))
}

// putLayer makes sure that layer number i of the image is in the store.
func (s *Store) putLayer(ctx context.Context, r backends.PullRequest, m backends.Manifest, chain []string, i int) (err error) {
	id, l := chain[i], m.Layers[i]
	unlock, err := s.layerLocks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if layer, err := s.store.Layer(id); err == nil && s.whole(id) && madeFrom(layer, l) {
		return nil
	}
	st, err := s.getStaged(ctx, r, m, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(st.dir)) }()
	if s.whole(id) {
		// The same content, packed in another way: it is enough to have seen that it is.
		return nil
	}
	if err := s.syncOne(ctx, st); err != nil { // before it is renamed and recorded
		return err
	}
	if _, err := s.store.Layer(id); err == nil {
		return s.replaceLayer(id, st)
	}
	parent := ""
	if i > 0 {
		parent = chain[i-1]
	}
	if err := s.layers.making(s.markerPath(id), id); err != nil {
		return err
	}
	err = s.commitStaged(id, parent, st)
	switch {
	case errors.Is(err, storage.ErrDuplicateID):
		return s.layers.notOurs(id) // another tool has just made it
	case err != nil:
		if _, gone := s.store.Layer(id); errors.Is(gone, storage.ErrLayerUnknown) {
			err = errors.Join(err, ignoreMissing(os.Remove(s.splitPath(id)))) // it was put there for the layer
		}
		return err
	}
	s.counts(id, st)
	return nil
}

// getStaged gives a staged layer that is the caller's alone. What Fetch has
// found may be gone since: by another image's Commit or Remove, or by a sweep.
func (s *Store) getStaged(ctx context.Context, r backends.PullRequest, m backends.Manifest, l backends.Layer) (*stagedLayer, error) {
	for range 3 {
		if err := s.Fetch(ctx, r, m, l, nil); err != nil {
			return nil, err
		}
		st := s.take(l)
		if st == nil {
			var err error
			if st, err = s.stageStored(ctx, l); err != nil {
				return nil, err
			}
		}
		if st != nil {
			return st, nil
		}
	}
	return nil, messages.Errorf(messages.Unavailable, "layer %s goes away each time while its image is being committed; pull again", l.Digest)
}

// stageStored copies a layer that stands elsewhere in the store; nil: it does
// not any more.
func (s *Store) stageStored(ctx context.Context, l backends.Layer) (*stagedLayer, error) {
	unlock, err := s.blobLocks.lock(ctx, l.Digest)
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := s.stored(l)
	if id == "" {
		return s.take(l), nil
	}
	plain := archive.Uncompressed
	diff, err := s.store.Diff("", id, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", id, err)
	}
	defer diff.Close()
	st, err := s.unpackStream(l, withContext{ctx, diff}, &meter{})
	if err != nil {
		return nil, fmt.Errorf("copying layer %s: %w", id, err)
	}
	return st, nil
}

// withContext is a reader that ends with its context.
type withContext struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r withContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

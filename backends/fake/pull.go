package fake

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// pieces is in how many parts a blob comes; the hook is asked before each, as
// Fetch and then as FetchMore, so that a download can hang or be cut anywhere.
const pieces = 4

// tries is how often a download that was cut begins before Fetch gives up.
const tries = 3

// Fetch goes on where a download was cut off, as the next one does.
func (b imagesBackend) Fetch(ctx context.Context, _ backends.PullRequest, m backends.Manifest, l backends.Layer, progress func(backends.Progress)) error {
	n, c := b.n, Call{Backend: "Images", Method: "Fetch", Key: l.Digest}
	if progress == nil {
		progress = func(backends.Progress) {}
	}
	for try := 1; ; {
		whole, have, cut := false, int64(0), error(nil)
		err := n.call(ctx, c, func() (err error) {
			whole, have, cut, err = n.fetchPiece(c, m, l)
			return err
		})
		switch {
		case err != nil:
			return err
		case cut != nil && try == tries:
			return cut
		case cut != nil:
			try++
			progress(backends.Progress{Received: have, Trouble: fmt.Sprintf("try %d: %v", try-1, cut)})
			c.Method = "Fetch"
			continue
		}
		progress(backends.Progress{Received: have, Unpacked: have})
		if whole {
			return nil
		}
		c.Method = "FetchMore"
	}
}

func (n *Node) fetchPiece(c Call, m backends.Manifest, l backends.Layer) (whole bool, have int64, cut, err error) {
	if n.store.fetched(l) {
		return true, l.Size, nil, nil
	}
	src, err := n.served(m, l.Digest)
	if err != nil {
		return false, 0, nil, err
	}
	b := n.store.blobs[l.Digest]
	if b == nil {
		b = &blob{size: src.Size}
		n.store.blobs[l.Digest] = b
	}
	piece := min((src.Size+pieces-1)/pieces, b.size-b.have)
	if piece > 1 && n.hook.Half(c) && n.disk.take(piece/2) == nil {
		b.have += piece / 2
		return false, b.have, messages.Errorf(messages.RegistryUnavailable, "blob %s: the registry cut the connection after %d of %d bytes", l.Digest, b.have, b.size), nil
	}
	if err := n.disk.take(piece); err != nil {
		return false, b.have, nil, err
	}
	b.have += piece
	if b.have < b.size {
		return false, b.have, nil, nil
	}
	if src.Corrupt {
		n.dropBlob(l.Digest)
		return false, 0, nil, messages.Errorf(messages.Internal, "blob %s: what the registry served has another digest", l.Digest)
	}
	return true, b.have, nil, nil
}

func (n *Node) dropBlob(digest string) {
	if b := n.store.blobs[digest]; b != nil {
		n.disk.give(b.have)
		delete(n.store.blobs, digest)
	}
}

func (s *store) hasLayer(diffID string) bool {
	for _, l := range s.layers {
		if l.diffID == diffID && !l.missing {
			return true
		}
	}
	return false
}

// Apply applies the first layers. What it cannot, Commit is asked for again.
func (b imagesBackend) Apply(ctx context.Context, _ backends.PullRequest, m backends.Manifest, count int) error {
	n := b.n
	m.Layers = m.Layers[:count]
	return n.call(ctx, Call{Backend: "Images", Method: "Apply", Key: m.Ref}, func() error {
		_, err := n.apply(m)
		if err != nil {
			return err
		}
		for _, l := range m.Layers {
			n.dropBlob(l.Digest)
		}
		return nil
	})
}

// Commit applies the layers in order and records the image; what was removed
// since its Fetch is fetched again. Cut off half-way, as by the daemon's death,
// its layers are there and the image is not: the next Commit uses them.
func (b imagesBackend) Commit(ctx context.Context, r backends.PullRequest, m backends.Manifest) (messages.Image, error) {
	n, c := b.n, Call{Backend: "Images", Method: "Commit", Key: m.Ref}
	for _, l := range n.missingLayers(m) {
		if err := b.Fetch(ctx, r, m, l, nil); err != nil {
			return messages.Image{}, err
		}
	}
	return ask(ctx, n, c, func() (messages.Image, error) {
		have := n.store.images[m.ConfigID]
		if have != nil && n.store.lacks(have.chain) {
			if _, err := n.apply(m); err != nil {
				return messages.Image{}, err
			}
			for _, l := range m.Layers {
				n.dropBlob(l.Digest)
			}
		}
		if have == nil {
			chain, err := n.apply(m)
			if err != nil {
				return messages.Image{}, err
			}
			if n.hook.Half(c) {
				return messages.Image{}, half("layers are applied, the image is not recorded")
			}
			img, _ := m.Opaque.(published)
			have = &stored{chain: chain, image: messages.Image{ID: m.ConfigID, Config: img.Config}}
			n.store.images[m.ConfigID] = have
			for i, id := range chain {
				n.store.layers[id].users++
				have.image.Size += uint64(n.store.layers[id].size)
				n.dropBlob(m.Layers[i].Digest)
			}
		}
		n.store.name(have, m)
		return have.copy(), nil
	})
}

func (n *Node) missingLayers(m backends.Manifest) (missing []backends.Layer) {
	n.change(func() {
		for _, l := range m.Layers {
			have := n.store.images[m.ConfigID]
			if (have == nil || n.store.lacks(have.chain)) && !n.store.fetched(l) {
				missing = append(missing, l)
			}
		}
	})
	return missing
}

// fetched says whether a layer can be applied: from its blob or from a layer
// that is the same.
func (s *store) fetched(l backends.Layer) bool {
	b := s.blobs[l.Digest]
	return s.hasLayer(l.DiffID) || (b != nil && b.have == b.size)
}

// apply makes all layers of a chain, or none.
func (n *Node) apply(m backends.Manifest) (chain []string, err error) {
	above := ""
	var made []string
	for _, l := range m.Layers {
		above = sum("chain", above+l.DiffID)
		chain = append(chain, above)
		old := n.store.layers[above]
		if old != nil && !old.missing {
			continue
		}
		if !n.store.fetched(l) {
			err = messages.Errorf(messages.Precondition, "layer %s of %s has not been fetched", l.Digest, m.Ref)
		} else {
			err = n.disk.take(max(l.Size, 0))
		}
		if err != nil {
			n.store.dropLayers(&n.disk, made)
			if messages.KindOf(err) == messages.NoSpace { // better to download again than to leave the node full
				for _, l := range m.Layers {
					n.dropBlob(l.Digest)
				}
			}
			return nil, err
		}
		if old != nil {
			old.missing = false
			continue
		}
		n.store.layers[above] = &storeLayer{diffID: l.DiffID, size: max(l.Size, 0)}
		made = append(made, above)
	}
	return chain, nil
}

// dropLayers removes those that no image uses.
func (s *store) dropLayers(d *disk, chain []string) {
	for _, id := range chain {
		if l := s.layers[id]; l != nil && l.users == 0 {
			if !l.missing {
				d.give(l.size)
			}
			delete(s.layers, id)
		}
	}
}

package fake

import (
	"context"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// store is the image store and its cache of blobs.
type store struct {
	images map[string]*stored     // by id
	layers map[string]*storeLayer // by chain id
	blobs  map[string]*blob       // by digest
	aside  []*aside               // in quarantine
	lost   []string               // what containers have lost by a sweep
}

type stored struct {
	image messages.Image
	chain []string // ids of its layers, the lowest first
}

type storeLayer struct {
	diffID string
	size   int64
	users  int // images; 0: left by a commit that was cut off, the next one uses it

	spoiled bool // and nobody knows yet
	missing bool // it was put aside: only its record is here
}

// blob is what has come of a layer.
type blob struct{ have, size int64 }

type imagesBackend struct{ n *Node }

func (s *store) init() {
	s.images, s.layers, s.blobs = map[string]*stored{}, map[string]*storeLayer{}, map[string]*blob{}
}

// name gives an image the name it was pulled by; a tag leaves the image it was on.
func (s *store) name(to *stored, m backends.Manifest) {
	if !strings.Contains(m.Ref, "@") {
		for _, other := range s.images {
			other.image.RepoTags = slices.DeleteFunc(other.image.RepoTags, func(t string) bool { return t == m.Ref })
		}
		to.image.RepoTags = append(to.image.RepoTags, m.Ref)
	}
	if digest := withoutTag(m.Ref) + "@" + m.Digest; !slices.Contains(to.image.RepoDigests, digest) {
		to.image.RepoDigests = append(to.image.RepoDigests, digest)
	}
}

// copy: what is given out does not change any more.
func (s *stored) copy() messages.Image {
	img := s.image
	img.RepoTags, img.RepoDigests = slices.Clone(img.RepoTags), slices.Clone(img.RepoDigests)
	return img
}

func (b imagesBackend) List(ctx context.Context) ([]messages.Image, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Images", Method: "List"}, func() (all []messages.Image, err error) {
		for _, id := range sorted(n.store.images) {
			if n.store.lacks(n.store.images[id].chain) {
				continue
			}
			all = append(all, n.store.images[id].copy())
		}
		return all, nil
	})
}

// Unlisted finds images that lack a layer.
func (b imagesBackend) Unlisted(ctx context.Context, ref string) (string, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Images", Method: "Unlisted", Key: ref}, func() (string, error) {
		for _, id := range sorted(n.store.images) {
			img := n.store.images[id].image
			if id == ref || slices.Contains(img.RepoTags, ref) || slices.Contains(img.RepoDigests, ref) {
				return id, nil
			}
		}
		return "", nil
	})
}

// Allowed: the fake node has no policy.
func (b imagesBackend) Allowed(ctx context.Context, _ backends.ImageUse) error { return ctx.Err() }

// Remove does not look at who uses the image: that is the actors' business,
// and Invariants sees a root that has lost its layers. Half done, the image has
// lost its names.
func (b imagesBackend) Remove(ctx context.Context, id string) error {
	n, c := b.n, Call{Backend: "Images", Method: "Remove", Key: id}
	return n.call(ctx, c, func() error {
		have := n.store.images[id]
		if have == nil {
			return nil
		}
		have.image.RepoTags, have.image.RepoDigests = nil, nil
		if n.hook.Half(c) {
			return half("the image has lost its names and is there")
		}
		delete(n.store.images, id)
		n.touchAll()
		for _, layer := range have.chain {
			n.store.layers[layer].users--
		}
		n.store.dropLayers(&n.disk, sorted(n.store.layers))
		return nil
	})
}

func (b imagesBackend) Usage(ctx context.Context) (messages.Filesystem, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Images", Method: "Usage"}, func() (messages.Filesystem, error) {
		fs := messages.Filesystem{Mountpoint: "/var/lib/containers/storage", At: n.hook.Now(), Inodes: uint64(len(n.store.layers) + len(n.store.blobs))}
		for _, l := range n.store.layers {
			fs.UsedBytes += uint64(l.size)
		}
		for _, b := range n.store.blobs {
			fs.UsedBytes += uint64(b.have)
		}
		return fs, nil
	})
}

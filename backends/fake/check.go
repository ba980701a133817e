package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// aside is a damaged layer's directory in quarantine. What has it mounted keeps
// it, and Invariants sees when it was removed all the same.
type aside struct {
	layer  string
	size   int64
	images []string
	at     time.Time
	roots  []backends.Key // that had it mounted
}

// SpoilLayer damages what is stored of a layer, as a bad disk does.
func (n *Node) SpoilLayer(name string) {
	n.change(func() {
		for _, l := range n.store.layers {
			l.spoiled = l.spoiled || l.diffID == "sha256:"+sum("diff", name)
		}
	})
}

// lacks says whether a layer of a chain is damaged and put aside.
func (s *store) lacks(chain []string) bool {
	return slices.ContainsFunc(chain, func(id string) bool { return s.layers[id] == nil || s.layers[id].missing })
}

// whole finds an image that can be mounted.
func (s *store) whole(image string) error {
	switch have := s.images[image]; {
	case have == nil:
		return messages.Errorf(messages.NotFound, "image %s is not in the store: pull it first", image)
	case s.lacks(have.chain):
		return messages.Errorf(messages.Internal, "image %s is damaged: pull it again", image)
	}
	return nil
}

// Check looks at one layer at a time: the rest of the node goes on between them.
func (b imagesBackend) Check(ctx context.Context, progress func(done, total int)) (found []messages.Damage, err error) {
	n := b.n
	var all []string
	n.change(func() { all = sorted(n.store.layers) })
	for i, id := range all {
		if progress != nil {
			progress(i, len(all))
		}
		err := n.call(ctx, Call{Backend: "Images", Method: "Check", Key: id}, func() error {
			if l := n.store.layers[id]; l != nil && (l.spoiled || l.missing) {
				found = append(found, n.condemn(id))
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	if progress != nil {
		progress(len(all), len(all))
	}
	return found, nil
}

func (n *Node) condemn(id string) messages.Damage {
	l := n.store.layers[id]
	d := messages.Damage{Layer: id, What: "its content has another digest", Quarantined: true}
	put := &aside{layer: id, size: l.size, at: n.hook.Now()}
	for _, image := range sorted(n.store.images) {
		have := n.store.images[image]
		if !slices.Contains(have.chain, id) {
			continue
		}
		put.images = append(put.images, image)
		one := messages.DamagedImage{ID: image, Name: image}
		for _, name := range slices.Concat(have.image.RepoDigests, have.image.RepoTags) {
			one.Name = name
		}
		if len(have.image.RepoDigests) > 0 {
			one.Ref = have.image.RepoDigests[0]
		}
		d.Images = append(d.Images, one)
	}
	if l.missing {
		return d
	}
	for _, k := range sortedKeys(n.roots) {
		if n.roots[k].mounted && slices.Contains(put.images, n.roots[k].image) {
			put.roots = append(put.roots, k)
		}
	}
	l.spoiled, l.missing = false, true
	n.store.aside = append(n.store.aside, put)
	return d
}

// Sweep removes what is in quarantine and has no user from before. Blobs are
// kept for their retry: nobody in the simulations comes so late.
func (b imagesBackend) Sweep(ctx context.Context, users map[string]time.Time) error {
	n := b.n
	return n.call(ctx, Call{Backend: "Images", Method: "Sweep"}, func() error {
		n.store.aside = slices.DeleteFunc(n.store.aside, func(a *aside) bool {
			for _, image := range a.images {
				if since, used := users[image]; used && !since.After(a.at) {
					return false
				}
			}
			for _, k := range a.roots {
				if r := n.roots[k]; r != nil && r.mounted && slices.Contains(a.images, r.image) {
					n.store.lost = append(n.store.lost, fmt.Sprintf("container %s has lost layer %.12s, which was in quarantine, under its root", k.Container, a.layer))
				}
			}
			n.disk.give(a.size)
			return true
		})
		return nil
	})
}

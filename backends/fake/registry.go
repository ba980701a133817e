package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
)

// Layer is a layer of an image in the registry; those of one name are the same.
type Layer struct {
	Name    string
	Size    int64 // of the blob, and of what is unpacked from it
	Corrupt bool  // what is served does not fit its digest
}

// Image is an image in the registry.
type Image struct {
	Layers []Layer
	Config messages.ImageConfig
	Auth   *messages.Auth // credentials it wants; nil: none
}

// published is an image under one of its names.
type published struct {
	Image
	digest, id string
}

// AddImage puts an image into the registry, in place of what was under the
// name. It has a command that runs until it is stopped.
func (n *Node) AddImage(ref string, layers ...Layer) {
	n.Publish(ref, Image{Layers: layers, Config: messages.ImageConfig{Cmd: []string{"/bin/server"}}})
}

// Publish is AddImage with all there is to an image. It gives the digest.
func (n *Node) Publish(ref string, img Image) (digest string) {
	named, err := normal(ref)
	if err != nil {
		panic(err) // the test's own mistake
	}
	config, err := json.Marshal(img.Config)
	if err != nil {
		panic(err)
	}
	for _, l := range img.Layers {
		config = append(config, "\x00"+l.Name...)
	}
	p := published{Image: img, id: sum("config", string(config)), digest: "sha256:" + sum("manifest", string(config))}
	n.change(func() {
		n.registry[named.String()] = p
		n.registry[reference.TrimNamed(named).String()+"@"+p.digest] = p
	})
	return p.digest
}

// Unpublish takes a name out of the registry.
func (n *Node) Unpublish(ref string) {
	named, err := normal(ref)
	if err != nil {
		panic(err)
	}
	n.change(func() { delete(n.registry, named.String()) })
}

// SetRegistry makes a registry ("docker.io") unreachable (down) or reachable.
func (n *Node) SetRegistry(host string, down bool) {
	n.change(func() {
		if down {
			n.unreachable[host] = true
		} else {
			delete(n.unreachable, host)
		}
	})
}

// reach fails when the registry of a name does not answer.
func (n *Node) reach(named reference.Named) error {
	if host := reference.Domain(named); n.unreachable[host] {
		return messages.Errorf(messages.RegistryUnavailable, "registry %s: connection refused", host)
	}
	return nil
}

func sum(kind, what string) string {
	s := sha256.Sum256([]byte(kind + ":" + what))
	return hex.EncodeToString(s[:])
}

// normal is the full form of a name: with its registry, and a tag or a digest.
func normal(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, messages.Errorf(messages.Invalid, "image name %q: %w", ref, err)
	}
	if digested, ok := named.(reference.Digested); ok {
		return reference.WithDigest(reference.TrimNamed(named), digested.Digest())
	}
	return reference.TagNameOnly(named), nil
}

// Resolve asks the registry, which wants to see the right credentials each time.
func (b imagesBackend) Resolve(ctx context.Context, r backends.PullRequest) (backends.Manifest, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Images", Method: "Resolve", Key: r.Ref}, func() (backends.Manifest, error) {
		named, err := normal(r.Ref)
		if err != nil {
			return backends.Manifest{}, err
		}
		if err := n.reach(named); err != nil {
			return backends.Manifest{}, err
		}
		img, found := n.registry[named.String()]
		if !found {
			return backends.Manifest{}, messages.Errorf(messages.NotFound, "image %s: manifest unknown", named)
		}
		if img.Auth != nil && (r.Auth == nil || *r.Auth != *img.Auth) {
			return backends.Manifest{}, messages.Errorf(messages.Unauthorized, "image %s: the registry refused the credentials", named)
		}
		m := backends.Manifest{Ref: named.String(), Digest: img.digest, ConfigID: img.id, Opaque: img}
		have := n.store.images[img.id]
		m.Present = have != nil && !n.store.lacks(have.chain)
		for _, l := range img.Layers {
			m.Layers = append(m.Layers, backends.Layer{
				Digest: "sha256:" + sum("blob", l.Name), DiffID: "sha256:" + sum("diff", l.Name),
				Size: l.Size, MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
			})
		}
		return m, nil
	})
}

// served finds the layer of a manifest by its digest.
func (n *Node) served(m backends.Manifest, digest string) (Layer, error) {
	if named, err := normal(m.Ref); err != nil {
		return Layer{}, err
	} else if err := n.reach(named); err != nil {
		return Layer{}, err
	}
	img, _ := m.Opaque.(published)
	i := slices.IndexFunc(img.Layers, func(l Layer) bool { return "sha256:"+sum("blob", l.Name) == digest })
	if i < 0 {
		return Layer{}, messages.Errorf(messages.NotFound, "blob %s: unknown to the registry for %s", digest, m.Ref)
	}
	return img.Layers[i], nil
}

// withoutTag is the repository of a full name.
func withoutTag(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return strings.SplitN(ref, "@", 2)[0]
	}
	return reference.TrimNamed(named).String()
}

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
)

// packages opens what an image can be loaded from, by the names that skopeo and
// podman know them by (containers-transports(5)).
var packages = map[string]func(sys *types.SystemContext, path string) (*imageArchive, error){
	"docker-archive": openDockerArchive,
	"oci":            openLayout,
	"oci-archive":    openLayoutArchive,
	"dir":            openDirectory,
}

// imageArchive is an open file or directory with images in it.
type imageArchive struct {
	images []archived
	close  func()
}

// archived is an image in an archive.
type archived struct {
	label string            // as the archive has it, may be no name of an image
	names []reference.Named // that it gives the image
	ref   func() (types.ImageReference, error)
}

// loadDir is where the library puts archives that must be unpacked first. It is
// cleared at start.
func (s *Store) loadDir() string { return filepath.Join(s.cfg.BlobDir, "loads") }

// resolveSource is Resolve for an image in a file or a directory of the node.
func (s *Store) resolveSource(ctx context.Context, r backends.PullRequest) (backends.Manifest, error) {
	wanted, err := wantedName(r)
	if err != nil {
		return backends.Manifest{}, err
	}
	if err := os.MkdirAll(s.loadDir(), 0o700); err != nil {
		return backends.Manifest{}, storeError(err, "loading %s", r.Source)
	}
	rules := s.rules.Load()
	copied := rules.system
	sys := &copied
	sys.BigFilesTemporaryDir = s.loadDir()
	open := func(ctx context.Context) (opened, error) { return openSource(ctx, sys, r.Source, wanted) }
	first, err := open(ctx)
	if err != nil {
		return backends.Manifest{}, sourceError(ctx, err, r.Source)
	}
	res := &resolved{source: first, named: first.names[0], also: first.names[1:], rules: rules}
	m, err := s.read(ctx, sys, res, r.Namespace)
	if err != nil {
		first.close()
		return backends.Manifest{}, sourceError(ctx, err, r.Source)
	}
	res.source = newIdleSource(first, r.Source, open)
	return m, nil
}

// wantedName is the name the caller gives the image; nil: the archive's own.
func wantedName(r backends.PullRequest) (reference.Named, error) {
	if r.Ref == "" {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return nil, invalidReference(r.Ref, err)
	}
	return complete(named), nil
}

// opened is one image of an archive.
type opened struct {
	types.ImageSource
	names []reference.Named // what it is to be called, one at least
	close func()
}

// openSource finds the image that is meant.
func openSource(ctx context.Context, sys *types.SystemContext, source string, wanted reference.Named) (opened, error) {
	kind, rest, _ := strings.Cut(source, ":")
	open, known := packages[kind]
	path, selector, _ := strings.Cut(rest, ":")
	if !known || !filepath.IsAbs(path) {
		return opened{}, messages.Errorf(messages.Invalid, "it must be docker-archive:, oci:, oci-archive: or dir: and an absolute path without ':', then perhaps :NAME")
	}
	a, err := open(sys, path)
	if err != nil {
		return opened{}, err
	}
	o, err := a.image(ctx, sys, selector, wanted)
	if err != nil {
		a.close()
	}
	return o, err
}

func (a *imageArchive) image(ctx context.Context, sys *types.SystemContext, selector string, wanted reference.Named) (opened, error) {
	chosen, err := choose(a.images, selector, wanted)
	if err != nil {
		return opened{}, err
	}
	if wanted != nil {
		chosen.names = []reference.Named{wanted}
	}
	if len(chosen.names) == 0 {
		return opened{}, messages.Errorf(messages.Invalid, "the image in it has no name: say which it shall get (--name)")
	}
	ref, err := chosen.ref()
	if err != nil {
		return opened{}, err
	}
	source, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return opened{}, err
	}
	return opened{source, chosen.names, func() { _ = source.Close(); a.close() }}, nil // both only drop temporary files
}

// choose takes the image the selector ("app:v1", "@0") or else the wanted name
// says, or the only one. It never guesses between several.
func choose(images []archived, selector string, wanted reference.Named) (archived, error) {
	for i, p := range images {
		if selector != "" && (selector == p.label || selector == fmt.Sprintf("@%d", i)) {
			return p, nil
		}
		name := wanted
		if selector != "" {
			name = fullName(selector)
		}
		if at := indexOf(p.names, name); at >= 0 {
			p.names = p.names[at : at+1]
			return p, nil
		}
	}
	if selector == "" && len(images) == 1 {
		return images[0], nil
	}
	if len(images) == 0 {
		return archived{}, messages.Errorf(messages.NotFound, "there is no image in it")
	}
	if selector != "" {
		return archived{}, messages.Errorf(messages.NotFound, "there is no image %q in it; it has %s", selector, listed(images))
	}
	return archived{}, messages.Errorf(messages.Invalid, "there are %d images in it; put the one that is meant behind the path (:NAME): %s", len(images), listed(images))
}

func indexOf(names []reference.Named, name reference.Named) int {
	if name == nil {
		return -1
	}
	return slices.IndexFunc(names, func(n reference.Named) bool { return n.String() == name.String() })
}

func listed(images []archived) string {
	var all []string
	for i, p := range images {
		switch {
		case len(p.names) > 0:
			for _, name := range p.names {
				all = append(all, reference.FamiliarString(name))
			}
		case p.label != "":
			all = append(all, p.label)
		default:
			all = append(all, fmt.Sprintf("@%d", i))
		}
	}
	return strings.Join(all, ", ")
}

// fullName is the name with registry and tag, or nil when it is none.
func fullName(name string) reference.Named {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil
	}
	return complete(named)
}

// sourceError classifies what an archive, or the file system, has answered. No
// registry has to do with it, so it is not tried again for that.
func sourceError(ctx context.Context, err error, source string) error {
	var classified *messages.Error
	kind := messages.Invalid
	switch {
	case errors.As(err, &classified) && classified.Kind != messages.RegistryUnavailable:
		kind = classified.Kind
	case ctx.Err() != nil:
		kind = messages.KindOf(ctx.Err())
	case isFull(err):
		kind = messages.NoSpace
	case errors.Is(err, fs.ErrNotExist):
		kind = messages.NotFound
	}
	return messages.Errorf(kind, "loading %q: %w", source, err)
}

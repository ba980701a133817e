package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/directory"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/types"
)

// openDockerArchive opens what "docker save" and "podman save" write.
func openDockerArchive(sys *types.SystemContext, path string) (*imageArchive, error) {
	reader, err := dockerarchive.NewReader(sys, path)
	if err != nil {
		return nil, err
	}
	closeReader := func() { _ = reader.Close() } // removes its temporary copy
	lists, err := reader.List()
	if err != nil {
		closeReader()
		return nil, err
	}
	a := &imageArchive{close: closeReader}
	for _, refs := range lists {
		// Each name of an image is a reference of its own to the same content.
		p := archived{ref: func() (types.ImageReference, error) { return refs[0], nil }}
		for _, ref := range refs {
			if name := ref.DockerReference(); name != nil {
				p.names = append(p.names, name)
			}
		}
		a.images = append(a.images, p)
	}
	return a, nil
}

// openDirectory opens what "skopeo copy … dir:" writes: one image, no name.
func openDirectory(_ *types.SystemContext, path string) (*imageArchive, error) {
	ref := func() (types.ImageReference, error) { return directory.NewReference(path) }
	return &imageArchive{images: []archived{{ref: ref}}, close: func() {}}, nil
}

// openLayout opens a directory in the OCI image layout.
func openLayout(_ *types.SystemContext, dir string) (*imageArchive, error) {
	file, err := os.Open(filepath.Join(dir, ispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return layoutOf(file, func(i int, _ string, _ int) (types.ImageReference, error) {
		return layout.NewIndexReference(dir, i)
	})
}

// openLayoutArchive opens a tar of one, compressed or not. Its index is read
// here, because the library could not say what is in it.
func openLayoutArchive(_ *types.SystemContext, file string) (*imageArchive, error) {
	tarball, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer tarball.Close()
	index, done, err := find(tarball, ispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	defer done()
	return layoutOf(index, func(i int, label string, images int) (types.ImageReference, error) {
		if label == "" && images > 1 {
			return nil, messages.Errorf(messages.Invalid, "the image @%d in it has no name, so it cannot be reached: unpack the archive and load it as oci:DIR:@%d", i, i)
		}
		return ociarchive.NewReference(file, label)
	})
}

// find gives the content of one file of a tar.
func find(tarball io.ReadSeeker, name string) (io.Reader, func(), error) {
	plain, compressed, err := compression.AutoDecompress(tarball)
	if err != nil {
		return nil, nil, err
	}
	done := func() { plain.Close() }
	var from io.Reader = plain
	if !compressed { // a file can be skipped through
		if _, err := tarball.Seek(0, io.SeekStart); err != nil {
			done()
			return nil, nil, err
		}
		from = tarball
	}
	entries := tar.NewReader(from)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("there is no %s in it: it is not an OCI archive", name)
		}
		if err != nil {
			done()
			return nil, nil, err
		}
		if path.Clean(header.Name) == name && header.Typeflag == tar.TypeReg {
			return entries, done, nil
		}
	}
}

// layoutOf reads an index.json.
func layoutOf(r io.Reader, ref func(i int, label string, images int) (types.ImageReference, error)) (*imageArchive, error) {
	data, err := io.ReadAll(io.LimitReader(r, configLimit))
	if err != nil {
		return nil, err
	}
	var index ispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", ispec.ImageIndexFile, err)
	}
	a := &imageArchive{close: func() {}}
	for i, d := range index.Manifests {
		label := d.Annotations[ispec.AnnotationRefName]
		a.images = append(a.images, archived{
			label: label, names: layoutNames(d.Annotations),
			ref: func() (types.ImageReference, error) { return ref(i, label, len(index.Manifests)) },
		})
	}
	return a, nil
}

// containerdName is where containerd and Docker put the name when they export.
const containerdName = "io.containerd.image.name"

// layoutNames: an image's annotation is its whole name, or only a tag ("v1"),
// which must not become docker.io/library/v1.
func layoutNames(annotations map[string]string) []reference.Named {
	for _, key := range []string{containerdName, ispec.AnnotationRefName} {
		if name := annotations[key]; strings.ContainsAny(name, ":/") {
			if named := fullName(name); named != nil {
				return []reference.Named{named}
			}
		}
	}
	return nil
}

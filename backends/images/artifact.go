package images

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/manifest"
)

// artifact is an OCI artifact: files that can be mounted as an image volume. No
// container is made from one.
type artifact struct{ files []artifactFile }

// artifactFile is one blob under the name it has in the volume.
type artifactFile struct {
	Path   string        `json:"path"` // relative, clean, without ".."
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// modelPath is where CNCF's ModelPack says the file's name; CRI-O looks there
// after the title, too.
const modelPath = "org.cncf.model.filepath"

// isArtifact: a manifest with an artifactType, or with a configuration that is
// not an image's (image-spec, "Guidelines for Artifact Usage"; CRI-O decides
// alike). Docker's own kinds, plugins for example, are none.
func isArtifact(d document) bool {
	if d.mime != ispec.MediaTypeImageManifest {
		return false
	}
	m, err := manifest.OCI1FromManifest(d.data)
	return err == nil && (m.ArtifactType != "" || !slices.Contains(configTypes, m.Config.MediaType))
}

var configTypes = []string{"", manifest.DockerV2Schema2ConfigMediaType, ispec.MediaTypeImageConfig}

// readArtifact is what read does after the policy has agreed, for an artifact.
// Its id is the manifest's digest: configurations of artifacts are often "{}".
func (s *Store) readArtifact(res *resolved) (backends.Manifest, error) {
	m, err := manifest.OCI1FromManifest(res.image.data)
	if err != nil {
		return backends.Manifest{}, messages.Errorf(messages.Internal, "manifest of %s: %w", res.named, err)
	}
	if err := checkDigest(res.image.digest); err != nil {
		return backends.Manifest{}, messages.Errorf(messages.Precondition, "manifest of %s: %w", res.named, err)
	}
	files, err := artifactFiles(m.Layers)
	if err != nil {
		return backends.Manifest{}, messages.Errorf(messages.Precondition, "artifact %s cannot be made into a volume: %w", res.named, err)
	}
	res.artifact = &artifact{files}
	id := res.image.digest.Encoded()
	return backends.Manifest{
		Ref: res.named.String(), Digest: res.top.digest.String(), ConfigID: id,
		Layers: res.artifact.layers(), Present: s.artifacts.whole(id), Opaque: res,
	}, nil
}

// layers are the blobs to fetch, each once. What a registry serves is what a
// container sees, so the content's digest is the blob's.
func (a *artifact) layers() []backends.Layer {
	var layers []backends.Layer
	for _, f := range a.files {
		name := f.Digest.String()
		if !slices.ContainsFunc(layers, func(l backends.Layer) bool { return l.Digest == name }) {
			layers = append(layers, backends.Layer{Digest: name, DiffID: name, Size: f.Size})
		}
	}
	return layers
}

// artifactFiles names the blobs of a manifest. Nothing is unpacked, also where
// ORAS's annotation io.deis.oras.content.unpack asks for it: neither CRI-O nor
// podman does, and an archive in a volume is as its author has signed it.
func artifactFiles(layers []ispec.Descriptor) ([]artifactFile, error) {
	var files []artifactFile
	for i, l := range layers {
		if l.MediaType == ispec.MediaTypeEmptyJSON && l.Annotations[ispec.AnnotationTitle] == "" {
			continue // stands for "no content", as a manifest must have a layer
		}
		f, err := artifactFileOf(l)
		if err != nil {
			return nil, fmt.Errorf("blob %d (%s): %w", i+1, l.Digest, err)
		}
		if !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files, clash(files)
}

func artifactFileOf(l ispec.Descriptor) (artifactFile, error) {
	switch {
	case len(l.URLs) > 0:
		return artifactFile{}, fmt.Errorf("it is to be fetched from elsewhere (%s); push the artifact with its content", l.URLs[0])
	case l.Size < 0:
		return artifactFile{}, fmt.Errorf("its size is %d", l.Size)
	}
	if err := checkDigest(l.Digest); err != nil {
		return artifactFile{}, err
	}
	name := l.Annotations[ispec.AnnotationTitle]
	if name == "" {
		name = l.Annotations[modelPath]
	}
	if name == "" {
		name = strings.ReplaceAll(l.Digest.String(), ":", "-") // podman's name for it
	}
	path, err := localPath(name)
	return artifactFile{path, l.Digest, l.Size}, err
}

// localPath refuses a name that is no path below the volume. Names with
// directories are common: ORAS takes them from its command line.
func localPath(name string) (string, error) {
	path := filepath.Clean(name)
	if !filepath.IsLocal(name) || path == "." || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("its name %q is not a path below the volume", name)
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > 255 {
			return "", fmt.Errorf("its name %.40q… has a part of %d bytes, file systems take 255", name, len(part))
		}
	}
	if len(path) > 1024 {
		return "", fmt.Errorf("its name %.40q… has %d bytes, 1024 are the limit", name, len(path))
	}
	return path, nil
}

// clash finds two blobs for one place.
func clash(files []artifactFile) error {
	taken := map[string]bool{}
	for _, f := range files {
		if taken[f.Path] {
			return fmt.Errorf("two blobs have the name %q", f.Path)
		}
		taken[f.Path] = true
	}
	for _, f := range files {
		for dir := filepath.Dir(f.Path); dir != "."; dir = filepath.Dir(dir) {
			if taken[dir] {
				return errors.New("it has " + dir + " as a file and " + f.Path + " below it")
			}
		}
	}
	return nil
}

package harness

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ArtifactFile is a file of an OCI artifact under its title.
type ArtifactFile struct{ Title, Content string }

// BuildArtifact makes an artifact as ORAS does: a manifest without a
// configuration, a blob per file. Registry.Push takes it like an image.
func BuildArtifact(files ...ArtifactFile) (*Image, error) {
	m := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.troupe.test", Config: ispec.DescriptorEmptyJSON,
	}
	img := &Image{MediaType: m.MediaType, Blobs: map[string][]byte{ispec.DescriptorEmptyJSON.Digest.String(): ispec.DescriptorEmptyJSON.Data}}
	for _, f := range files {
		d := ispec.Descriptor{
			MediaType: "application/octet-stream", Digest: digest.FromString(f.Content), Size: int64(len(f.Content)),
			Annotations: map[string]string{ispec.AnnotationTitle: f.Title},
		}
		img.Blobs[d.Digest.String()] = []byte(f.Content)
		m.Layers = append(m.Layers, d)
	}
	var err error
	if img.Manifest, err = json.Marshal(m); err != nil {
		return nil, fmt.Errorf("manifest of an artifact: %w", err)
	}
	return img, nil
}

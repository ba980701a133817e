package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
)

// configLimit bounds what is read into memory; the field's tools use 4 MiB for
// manifests, and configurations with long histories are larger.
const configLimit = 8 << 20

var layerTypes = []string{
	manifest.DockerV2Schema2LayerMediaType, manifest.DockerV2SchemaLayerMediaTypeUncompressed,
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
	ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayerGzip, ispec.MediaTypeImageLayerZstd,
}

// parseImage refuses what is not the manifest of a container image.
func parseImage(res *resolved) (manifest.Manifest, error) {
	switch res.image.mime {
	case manifest.DockerV2Schema2MediaType, ispec.MediaTypeImageManifest:
	case manifest.DockerV2Schema1MediaType, manifest.DockerV2Schema1SignedMediaType:
		return nil, messages.Errorf(messages.Precondition, "%s is in Docker's schema 1, which was withdrawn: push it again with a current tool", res.named)
	default:
		return nil, messages.Errorf(messages.Precondition, "%s: manifests of type %.256q are not supported", res.named, res.image.mime)
	}
	parsed, err := manifest.FromBlob(res.image.data, res.image.mime)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "manifest of %s: %w", res.named, err)
	}
	switch kind := parsed.ConfigInfo().MediaType; kind {
	case manifest.DockerV2Schema2ConfigMediaType, ispec.MediaTypeImageConfig:
	default:
		return nil, messages.Errorf(messages.Precondition, "%s is not a container image but an artifact of type %.256q", res.named, kind)
	}
	return parsed, nil
}

// readConfig fetches the image's configuration, whose digest is the image's id.
func (res *resolved) readConfig(ctx context.Context, info types.BlobInfo) error {
	if err := checkDigest(info.Digest); err != nil {
		return messages.Errorf(messages.Precondition, "configuration of %s: %w", res.named, err)
	}
	stream, _, err := res.source.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return registryError(ctx, err, "configuration of %s", res.named)
	}
	defer stream.Close()
	data, err := io.ReadAll(io.LimitReader(stream, configLimit+1))
	if err != nil {
		return registryError(ctx, err, "configuration of %s", res.named)
	}
	if len(data) > configLimit {
		return messages.Errorf(messages.Precondition, "configuration of %s is larger than %d bytes", res.named, configLimit)
	}
	if got := digest.FromBytes(data); got != info.Digest {
		return wrongDigest(fmt.Sprintf("configuration of %s", res.named), info.Digest, got)
	}
	res.config = document{info.Digest, data, info.MediaType}
	return nil
}

// checkDigest allows SHA-256 only: it is what the store names things by.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.256q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %.256q: only sha256 is supported", d)
	}
	return nil
}

// layersOf joins the manifest's blobs with the configuration's DiffIDs.
func layersOf(res *resolved, parsed manifest.Manifest) ([]backends.Layer, error) {
	var config ispec.Image
	if err := json.Unmarshal(res.config.data, &config); err != nil {
		return nil, messages.Errorf(messages.Internal, "configuration of %s: %w", res.named, err)
	}
	infos := parsed.LayerInfos()
	if len(infos) != len(config.RootFS.DiffIDs) {
		return nil, messages.Errorf(messages.Internal, "%s is malformed: its manifest has %d layers, its configuration %d", res.named, len(infos), len(config.RootFS.DiffIDs))
	}
	if err := checkLimits(res.named.String(), infos, config.Config); err != nil {
		return nil, err
	}
	layers := make([]backends.Layer, 0, len(infos))
	for i, info := range infos {
		if err := res.checkLayer(info); err != nil {
			return nil, messages.Errorf(messages.Precondition, "layer %d of %s: %w", i+1, res.named, err)
		}
		diffID := config.RootFS.DiffIDs[i]
		if err := checkDigest(diffID); err != nil {
			return nil, messages.Errorf(messages.Precondition, "layer %d of %s: %w", i+1, res.named, err)
		}
		layers = append(layers, backends.Layer{
			Digest: info.Digest.String(), DiffID: diffID.String(), Size: info.Size,
			MediaType: info.MediaType, Annotations: info.Annotations,
		})
	}
	return layers, nil
}

// checkLayer refuses what could not become a layer here, before a byte of it is
// fetched.
func (res *resolved) checkLayer(info manifest.LayerInfo) error {
	kind := strings.TrimSuffix(info.MediaType, encryptedSuffix)
	switch {
	case len(info.URLs) > 0, strings.Contains(kind, "foreign"), strings.Contains(kind, "nondistributable"):
		return fmt.Errorf("it is a foreign layer, to be fetched from elsewhere (%.256s); push the image with its layers", kind)
	case !slices.Contains(layerTypes, kind):
		return fmt.Errorf("its type %.256q is not supported", info.MediaType)
	case isEncrypted(info.MediaType):
		if err := res.rules.unlocks(info.Annotations); err != nil {
			return err
		}
	}
	return checkDigest(info.Digest)
}

// opaque gets back what Resolve has put into a Manifest.
func opaque(m backends.Manifest) (*resolved, error) {
	res, ok := m.Opaque.(*resolved)
	if !ok || res == nil {
		return nil, messages.Errorf(messages.Internal, "image %s: its manifest was not resolved by this store; resolve it again", m.Ref)
	}
	return res, nil
}

package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// The signatures of an image are kept with it, where and how the library's
// storage transport keeps them: what one namespace has pulled may be run in
// another only if that one's policy agrees, and then there is no registry to ask.

// signed are the signatures of one manifest.
type signed struct {
	manifest digest.Digest
	data     []byte // one after the other
	sizes    []int
}

// signatureSizes is the part of an image record's metadata that says how to
// take signatures apart (storageImageMetadata of the library).
type signatureSizes struct {
	Top       []int                   `json:"signature-sizes,omitempty"`
	Manifests map[digest.Digest][]int `json:"signatures-sizes,omitempty"`
}

// takeSignatures takes the signatures of the image's manifest over from the registry.
// An image whose signatures cannot be had now was allowed without them.
func (res *resolved) takeSignatures(ctx context.Context, s *Store, unparsed *image.UnparsedImage) {
	ctx, cancel := context.WithTimeout(ctx, s.resolveLimit/4)
	defer cancel()
	list, err := unparsed.UntrustedSignatures(ctx)
	if err != nil {
		s.log.Warn("the signatures of an image could not be stored with it", "image", res.named.String(), "error", err)
		return
	}
	res.signed = signed{manifest: res.image.digest}
	for _, one := range list {
		blob := signatureBlob(one)
		if blob == nil {
			continue
		}
		res.signed.data, res.signed.sizes = append(res.signed.data, blob...), append(res.signed.sizes, len(blob))
	}
}

// signatureBlob is the library's form of a signature for storing; nil for a kind
// that is neither GPG simple signing nor sigstore.
func signatureBlob(signature any) []byte {
	switch s := signature.(type) {
	case interface{ UntrustedSignature() []byte }:
		return s.UntrustedSignature()
	case interface {
		UntrustedMIMEType() string
		UntrustedPayload() []byte
		UntrustedAnnotations() map[string]string
	}:
		data, err := json.Marshal(struct {
			MIMEType    string            `json:"mimeType"`
			Payload     []byte            `json:"payload"`
			Annotations map[string]string `json:"annotations"`
		}{s.UntrustedMIMEType(), s.UntrustedPayload(), s.UntrustedAnnotations()})
		if err != nil {
			return nil
		}
		return append([]byte("\x00sigstore-json\n"), data...)
	}
	return nil
}

// keepSignatures stores them with the image's record.
func (s *Store) keepSignatures(res *resolved) error {
	if len(res.signed.sizes) == 0 {
		return nil
	}
	s.signing.Lock() // two manifests of one image may be committed at once
	defer s.signing.Unlock()
	id := res.config.digest.Encoded()
	record, err := s.store.Image(id)
	if err != nil {
		return err
	}
	var sizes signatureSizes
	if record.Metadata != "" {
		if err := json.Unmarshal([]byte(record.Metadata), &sizes); err != nil {
			return fmt.Errorf("metadata of image %s: %w", id, err)
		}
	}
	// Other tools look at those of the record's own manifest only.
	key, had := "signatures", sizes.Top
	if res.signed.manifest != record.Digest {
		key, had = "signature-"+res.signed.manifest.Encoded(), sizes.Manifests[res.signed.manifest]
	}
	if slices.Equal(had, res.signed.sizes) {
		if data, err := s.store.ImageBigData(id, key); err == nil && bytes.Equal(data, res.signed.data) {
			return nil
		}
	}
	if res.signed.manifest == record.Digest {
		sizes.Top = res.signed.sizes
	} else {
		if sizes.Manifests == nil {
			sizes.Manifests = map[digest.Digest][]int{}
		}
		sizes.Manifests[res.signed.manifest] = res.signed.sizes
	}
	metadata, err := json.Marshal(sizes)
	if err != nil {
		return err
	}
	// A crash between the two leaves sizes that do not fit, which the library
	// finds; the policy then says no until the image is pulled again.
	if err := s.store.SetImageBigData(id, key, res.signed.data, nil); err != nil {
		return err
	}
	return s.store.SetMetadata(id, string(metadata))
}

// Allowed asks the policy of a pod's namespace about an image that is here.
func (s *Store) Allowed(ctx context.Context, use backends.ImageUse) error {
	rules := s.rules.Load()
	policy, err := rules.policy(use.Namespace)
	if err == nil && policy == acceptAll {
		return nil
	}
	if err != nil {
		return messages.Errorf(messages.SignatureValidationFailed, "image %s: %w", use.Name, err)
	}
	record, err := s.store.Image(use.ImageID)
	if artifact, ok := s.artifacts.get(use.ImageID); ok && err != nil {
		return s.artifactAllowed(ctx, rules, use, artifact)
	}
	if err != nil {
		return storeError(err, "image %s", use.ImageID)
	}
	names := rules.namesOf(use.Name, record.Names)
	if len(names) == 0 {
		return messages.Errorf(messages.SignatureValidationFailed, "image %s has no name that the signature policy could be asked about", use.ImageID)
	}
	stored, err := imagestorage.Transport.NewStoreReference(s.store, nil, record.ID)
	if err != nil {
		return storeError(err, "image %s", use.ImageID)
	}
	source, err := stored.NewImageSource(ctx, &rules.system)
	if err != nil {
		return storeError(err, "image %s", use.ImageID)
	}
	defer source.Close()
	var refused []error
	for _, named := range names {
		err := rules.allowedHere(ctx, use.Namespace, named, source, record)
		if err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return messages.Errorf(messages.SignatureValidationFailed, "%w; if it was signed since, pull it again", errors.Join(refused...))
}

// namesOf are the names the policy is asked about: the one that the pod names,
// or, where that is an id, those of the image.
func (r *rules) namesOf(name string, stored []string) []reference.Named {
	if names, err := r.candidates(name); name != "" && err == nil {
		return names
	}
	var names []reference.Named
	for _, name := range stored {
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			names = append(names, named)
		}
	}
	return names
}

// allowedHere asks about each manifest that the image is known by: the same
// image may have been pushed twice, and signed once.
func (r *rules) allowedHere(ctx context.Context, namespace string, named reference.Named, source types.ImageSource, record *storage.Image) error {
	ref, err := docker.NewReference(reference.TagNameOnly(named))
	if err != nil {
		return invalidReference(named.String(), err)
	}
	refused := r.allowed(ctx, namespace, named, image.UnparsedInstanceWithReference(image.UnparsedInstance(source, nil), ref))
	var sizes signatureSizes
	if refused == nil || json.Unmarshal([]byte(record.Metadata), &sizes) != nil {
		return refused
	}
	for manifest := range sizes.Manifests {
		unparsed := image.UnparsedInstance(source, &manifest)
		if r.allowed(ctx, namespace, named, image.UnparsedInstanceWithReference(unparsed, ref)) == nil {
			return nil
		}
	}
	return refused
}

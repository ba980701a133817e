package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
)

// signedDir holds an artifact's manifest and signatures as the library's dir:
// transport has them, which is how it reads them again.
func (s *Store) signedDir(id string) string {
	return filepath.Join(filepath.Dir(s.artifacts.files(id)), "signed")
}

func (s *Store) keepArtifactSignatures(res *resolved, id string) error {
	dir := s.signedDir(id)
	next := dir + ".next"
	if err := errors.Join(os.RemoveAll(next), os.Mkdir(next, 0o700)); err != nil {
		return err
	}
	files := map[string][]byte{"manifest.json": res.image.data, "version": []byte("Directory Transport Version: 1.1\n")}
	rest := res.signed.data
	for i, size := range res.signed.sizes {
		files[fmt.Sprintf("signature-%d", i+1)], rest = rest[:size], rest[size:]
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(next, name), data, 0o600); err != nil {
			return err
		}
	}
	// A crash in between leaves none: the policy then says no until the next pull.
	return errors.Join(os.RemoveAll(dir), os.Rename(next, dir))
}

// artifactAllowed is Allowed for an artifact.
func (s *Store) artifactAllowed(ctx context.Context, rules *rules, use backends.ImageUse, record artifactRecord) error {
	stored, err := directory.NewReference(s.signedDir(record.ID))
	if err != nil {
		return messages.Errorf(messages.SignatureValidationFailed, "artifact %s: its signatures are not here, pull it again: %w", use.Name, err)
	}
	source, err := stored.NewImageSource(ctx, &rules.system)
	if err != nil {
		return messages.Errorf(messages.SignatureValidationFailed, "artifact %s: its signatures are not here, pull it again: %w", use.Name, err)
	}
	defer source.Close()
	var refused []error
	for _, named := range rules.namesOf(use.Name, record.Names) {
		ref, err := docker.NewReference(complete(named))
		if err == nil {
			err = rules.allowed(ctx, use.Namespace, named, image.UnparsedInstanceWithReference(image.UnparsedInstance(source, nil), ref))
		}
		if err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return messages.Errorf(messages.SignatureValidationFailed, "artifact %s: %w", use.Name, errors.Join(refused...))
}

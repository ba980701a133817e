package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// commitArtifact is Commit for an artifact: its blobs become the files of a
// volume, under their names.
func (s *Store) commitArtifact(ctx context.Context, r backends.PullRequest, m backends.Manifest, res *resolved) (messages.Image, error) {
	unlock, err := s.layerLocks.lock(ctx, "artifact "+m.ConfigID)
	if err != nil {
		return messages.Image{}, storeError(err, "artifact %s", m.Ref)
	}
	defer unlock()
	if err := s.putArtifact(ctx, r, m, res); err != nil {
		if storeKind(err) == messages.NoSpace {
			s.dropFetched(m.Layers) // better than to leave the node full
			free, _ := freeBytes(s.cfg.GraphRoot)
			err = fmt.Errorf("%s is full (%d bytes free): %w", s.cfg.GraphRoot, free, err)
		}
		return messages.Image{}, storeError(err, "artifact %s", m.Ref)
	}
	if err := s.keepArtifactSignatures(res, m.ConfigID); err != nil {
		return messages.Image{}, storeError(err, "signatures of artifact %s", m.Ref)
	}
	s.dropFetched(m.Layers)
	if err := s.takeNames(res, m.ConfigID); err != nil {
		return messages.Image{}, storeError(err, "naming artifact %s", m.Ref)
	}
	record, _ := s.artifacts.get(m.ConfigID)
	return s.describeArtifact(record), nil
}

func (s *Store) putArtifact(ctx context.Context, r backends.PullRequest, m backends.Manifest, res *resolved) error {
	named := func(record *artifactRecord) {
		for _, name := range res.names() {
			record.gain(name.String(), res.top.digest)
		}
	}
	if s.artifacts.whole(m.ConfigID) {
		return s.artifacts.update(m.ConfigID, named)
	}
	record, _ := s.artifacts.get(m.ConfigID) // of one that is damaged: its names
	record.ID, record.Files, record.Data = m.ConfigID, res.artifact.files, int64(len(res.image.data))
	named(&record)
	return s.artifacts.put(record, res.image.data, func(dir string) error {
		layers := res.artifact.layers()
		for _, f := range res.artifact.files {
			at := slices.IndexFunc(layers, func(l backends.Layer) bool { return l.Digest == f.Digest.String() })
			if err := s.placeBlob(ctx, r, m, layers[at], filepath.Join(dir, f.Path)); err != nil {
				return fmt.Errorf("%s (%s): %w", f.Path, f.Digest, err)
			}
		}
		return nil
	})
}

// fetchFile is Fetch for a file of an artifact: nothing is unpacked, the blob
// waits in the cache under its own name for Commit.
func (s *Store) fetchFile(ctx context.Context, res *resolved, l backends.Layer, m *meter) error {
	path := s.blobPath(l.Digest)
	if info, err := os.Stat(path); err == nil && info.Size() == l.Size {
		m.received(l.Size)
		return nil
	}
	file := l
	file.MediaType = "" // whatever it is packed with, it is not unpacked
	release, err := s.reserve(backends.Manifest{Ref: res.named.String()}, file)
	if err != nil {
		return err
	}
	defer release()
	blob, err := s.openBlob(l)
	if err != nil {
		return err
	}
	defer blob.file.Close()
	d := &download{source: res.source, layer: l, blob: blob, limit: s.cfg.PullProgressTimeout, progress: m}
	if err = d.run(ctx); err != nil {
		err = s.downloadError(ctx, err, l, blob)
		if kind := messages.KindOf(err); kind == messages.Internal || kind == messages.NoSpace {
			err = errors.Join(err, ignoreMissing(os.Remove(blob.path)))
		}
		return err
	}
	// On disk before it has the name that says it is whole.
	if err := blob.file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", blob.path, err)
	}
	return os.Rename(blob.path, path)
}

// placeBlob puts a fetched blob at path. Another pull's commit may drop it from
// the cache at any moment; then it is fetched again.
func (s *Store) placeBlob(ctx context.Context, r backends.PullRequest, m backends.Manifest, l backends.Layer, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	var err error
	for range 3 {
		if err := s.Fetch(ctx, r, m, l, nil); err != nil {
			return err
		}
		if err = linkOrCopy(ctx, s.blobPath(l.Digest), path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return messages.Errorf(messages.Unavailable, "it went away again and again while its artifact was being committed; pull again: %w", err)
}

// linkOrCopy links where both are on one file system, which is the default.
func linkOrCopy(ctx context.Context, from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) {
		err = copyFile(ctx, from, to)
	}
	if err != nil {
		return err
	}
	return os.Chmod(to, 0o644) // for every user of the container, and not to be executed
}

func copyFile(ctx context.Context, from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, withContext{ctx, source})
	return errors.Join(err, file.Close())
}

// takeNames takes an artifact's names from what had them before, be it an image
// or an artifact.
func (s *Store) takeNames(res *resolved, id string) error {
	for _, name := range res.names() {
		record, err := s.store.Image(name.String())
		if errors.Is(err, storage.ErrImageUnknown) {
			continue
		}
		if err == nil {
			err = s.store.RemoveNames(record.ID, []string{name.String()})
		}
		if err != nil {
			return fmt.Errorf("taking the name %s from an image: %w", name, err)
		}
	}
	return s.artifacts.disown(res.names(), id)
}

func (s *Store) describeArtifact(r artifactRecord) messages.Image {
	tops := slices.Clone(r.Digests)
	if len(tops) == 0 {
		tops = []digest.Digest{digest.NewDigestFromEncoded(digest.SHA256, r.ID)}
	}
	slices.Sort(tops)
	tags, digests := names(&storage.Image{Names: r.Names, NamesHistory: r.History}, tops)
	return messages.Image{
		ID: r.ID, RepoTags: tags, RepoDigests: digests,
		Size: max(r.size(), 1), Pinned: s.rules.Load().pinned(tags, digests), Artifact: true,
	}
}

// artifactDirs are the layers of an artifact's volume; nil when the id is not
// an artifact's.
func (s *Store) artifactDirs(id string) ([]string, error) {
	record, ok := s.artifacts.get(id)
	if !ok {
		return nil, nil
	}
	if s.cfg.NoArtifactMounts {
		return nil, messages.Errorf(messages.ImageVolumeMountFailed, "%s is an OCI artifact, and mounting those is off (crio.image.oci_artifact_mount_support)", id)
	}
	if err := s.artifacts.damage(record); err != nil {
		return nil, messages.Errorf(messages.Internal, "artifact %s is damaged (pull it again): %w", id, err)
	}
	return []string{s.artifacts.files(id)}, nil
}

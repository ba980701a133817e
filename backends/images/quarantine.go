package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"

	"github.com/troupe-run/troupe/backends"
)

// A damaged layer's directory goes from overlay/<id>/diff to
// troupe-quarantine/<id>-<time>, beside a note of what was found. Containers
// that have it mounted keep it: a mount holds directories, not their names. The
// record stays, so the layers and images above it do too; an image with a layer
// whose directory is missing is not listed, and the next pull brings that layer
// alone.
const noteSuffix = ".json"

// note says why something is in quarantine, and who may still have it mounted.
type note struct {
	Layer  string    `json:"layer"`
	Images []string  `json:"images"` // ids of those that had it
	What   string    `json:"what"`
	At     time.Time `json:"at"`
}

func (s *Store) quarantineDir() string { return filepath.Join(s.imageRoot(), "troupe-quarantine") }

// quarantine puts a path of the store aside, the note first: what has none is
// never removed.
func (s *Store) quarantine(path string, n note) error {
	dir := s.quarantineDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	n.At = time.Now()
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	to := filepath.Join(dir, fmt.Sprintf("%s-%d", n.Layer, n.At.UnixNano()))
	// On disk first: what the note says decides when the rest may go.
	if err := writeSynced(to+noteSuffix, data); err != nil {
		_ = os.Remove(to + noteSuffix)
		return fmt.Errorf("quarantine: %w", err)
	}
	if err := os.Rename(path, to); err != nil {
		_ = os.Remove(to + noteSuffix) // a note alone is swept
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is missing: that is the damage
		}
		return fmt.Errorf("quarantine: %w", err)
	}
	return errors.Join(syncDir(filepath.Dir(path)), syncDir(dir))
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// Sweep implements backends.Images.
func (s *Store) Sweep(ctx context.Context, users map[string]time.Time) error {
	s.sweepStaged()
	s.sweepApplied()
	if err := s.sweepBlobs(); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.quarantineDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError(err, "quarantine of damaged layers")
	}
	users, err = s.withTheirs(users)
	if err != nil {
		return storeError(err, "quarantine of damaged layers")
	}
	var failed []error
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), noteSuffix); ok && ctx.Err() == nil {
			failed = append(failed, s.release(filepath.Join(s.quarantineDir(), name), users))
		}
	}
	return errors.Join(append(failed, ctx.Err())...)
}

// withTheirs adds the containers of podman and buildah.
func (s *Store) withTheirs(users map[string]time.Time) (map[string]time.Time, error) {
	containers, err := s.store.Containers()
	if err != nil {
		return nil, err
	}
	all := map[string]time.Time{}
	for image, at := range users {
		all[image] = at
	}
	for _, c := range containers {
		if at, known := all[c.ImageID]; !known || c.Created.Before(at) {
			all[c.ImageID] = c.Created
		}
	}
	return all, nil
}

// release removes what no container can have mounted: those of its images that
// there are were made later, and have got the layer that came in its place.
func (s *Store) release(path string, users map[string]time.Time) error {
	data, err := backends.ReadFile(path + noteSuffix)
	if err != nil {
		return storeError(err, "quarantine of damaged layers")
	}
	var n note
	if err := json.Unmarshal(data, &n); err != nil {
		return messages.Errorf(messages.Internal, "quarantine of damaged layers: %s%s cannot be read; remove both by hand when no container needs the layer: %w", path, noteSuffix, err)
	}
	for _, image := range n.Images {
		if since, used := users[image]; used && !since.After(n.At) {
			return nil
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return storeError(err, "quarantine of damaged layers")
	}
	s.log.Info("a damaged layer in quarantine is removed: no container needs it any more", "layer", n.Layer, "was", n.What)
	if err := os.Remove(path + noteSuffix); err != nil {
		return storeError(err, "quarantine of damaged layers")
	}
	return nil
}

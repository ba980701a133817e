package images

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"
)

// checkData reads what is kept with an image: configuration and manifests are
// named by their digests.
func (s *Store) checkData(record *storage.Image) (found []messages.Damage) {
	for _, key := range record.BigDataNames {
		what := s.wrongData(record, key)
		if what == nil {
			continue
		}
		if _, err := s.store.Image(record.ID); err != nil {
			return nil // it was removed meanwhile
		}
		d := messages.Damage{Images: []messages.DamagedImage{s.damagedImage(record)}, What: fmt.Sprintf("%s: %v", key, what)}
		if !record.ReadOnly {
			path := filepath.Join(s.dataDir(record.ID), dataFileName(key))
			if err := s.quarantine(path, note{Layer: "image-" + record.ID, What: d.What}); err != nil {
				s.log.Error("damaged data of an image stays where it is", "image", record.ID, "data", key, "error", err)
			} else {
				d.Quarantined = true
			}
			s.forget(record.ID)
		}
		s.log.Error("an image's data is damaged; pull the image again", "images", d.Names(), "what", d.What)
		found = append(found, d)
	}
	return found
}

func (s *Store) wrongData(record *storage.Image, key string) error {
	data, err := s.store.ImageBigData(record.ID, key)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it is missing")
	}
	if err != nil {
		return err
	}
	if want, known := record.BigDataSizes[key]; known && int64(len(data)) != want {
		return fmt.Errorf("it has %d bytes instead of %d", len(data), want)
	}
	want, got := digestOfData(record, key, data)
	if got != want {
		return fmt.Errorf("it has the digest %s, want %s", got, want)
	}
	return nil
}

// digestOfData is what a piece of data should have and has. Of what is known by
// no digest (signatures) both are empty.
func digestOfData(record *storage.Image, key string, data []byte) (want, got digest.Digest) {
	if key == storage.ImageDigestBigDataKey {
		want = record.Digest
	} else if name, ok := strings.CutPrefix(key, storage.ImageDigestManifestBigDataNamePrefix+"-"); ok {
		want = digest.Digest(name)
	} else if want = digest.Digest(key); want.Validate() == nil {
		return want, want.Algorithm().FromBytes(data)
	}
	if want.Validate() != nil {
		return "", ""
	}
	if got, err := manifest.Digest(data); err == nil {
		return want, got
	}
	return want, want.Algorithm().FromBytes(data)
}

// checkChain finds layers that an image has and the store knows nothing of.
func (s *Store) checkChain(record *storage.Image) []messages.Damage {
	for id := record.TopLayer; id != ""; {
		layer, err := s.store.Layer(id)
		if err == nil {
			id = layer.Parent
			continue
		}
		if _, gone := s.store.Image(record.ID); gone != nil {
			return nil
		}
		return []messages.Damage{{Layer: id, Images: []messages.DamagedImage{s.damagedImage(record)}, What: "the store has no record of it: " + err.Error()}}
	}
	return nil
}

var plainName = regexp.MustCompile(`^[.0-9a-z]*$`)

// dataFileName is the library's name of the file that holds a piece of data.
func dataFileName(key string) string {
	if plainName.MatchString(key) {
		return key
	}
	return "=" + base64.StdEncoding.EncodeToString([]byte(key))
}

// forget makes List read an image's data again.
func (s *Store) forget(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.facts, image)
}

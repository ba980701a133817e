package images

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/utils"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// encryptedSuffix marks the media type of an encrypted layer (ocicrypt).
const encryptedSuffix = "+encrypted"

func isEncrypted(mediaType string) bool { return strings.HasSuffix(mediaType, encryptedSuffix) }

// decrypted gives what a layer's blob holds once decrypted; of a plain layer r
// itself. A cipher text that was changed is an error at the stream's end.
func (s *Store) decrypted(l backends.Layer, r io.Reader) (io.Reader, error) {
	if !isEncrypted(l.MediaType) {
		return r, nil
	}
	keys, err := s.rules.Load().keys()
	if err != nil {
		return nil, err
	}
	plain, _, err := ocicrypt.DecryptLayer(keys.config, r, ispec.Descriptor{Annotations: l.Annotations}, false)
	if err != nil {
		return nil, keys.refused(err)
	}
	return plain, nil
}

// unlocks says whether a layer can be decrypted, from its annotations alone.
func (r *rules) unlocks(annotations map[string]string) error {
	keys, err := r.keys()
	if err != nil {
		return err
	}
	if _, _, err := ocicrypt.DecryptLayer(keys.config, nil, ispec.Descriptor{Annotations: annotations}, true); err != nil {
		return keys.refused(err)
	}
	return nil
}

// keys are the node's private keys.
type keys struct {
	dir    string
	files  int
	config *config.DecryptConfig
}

// refused leaves out the library's own list of what it tried unless there was
// something to try.
func (k keys) refused(err error) error {
	if k.files == 0 {
		return messages.Errorf(messages.Precondition, "it is encrypted, and there is no key in %q (decryption_keys_path)", k.dir)
	}
	return messages.Errorf(messages.Precondition, "it is encrypted, and none of the %d keys in %q (decryption_keys_path) opens it: %w", k.files, k.dir, err)
}

// keys reads the folder anew, so that a key that was added counts for the next
// pull. Links are followed, and hidden names left out: that is how Kubernetes
// mounts a secret.
func (r *rules) keys() (keys, error) {
	k := keys{dir: r.DecryptionKeys, config: &config.DecryptConfig{Parameters: map[string][][]byte{}}}
	if k.dir == "" {
		return k, nil
	}
	err := filepath.WalkDir(k.dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != k.dir && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		return k.add(path)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, messages.Errorf(messages.Precondition, "keys for encrypted layers: %w", err)
	}
	return k, nil
}

func (k *keys) add(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	parameters, err := utils.SortDecryptionKeys(base64.StdEncoding.EncodeToString(data))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for kind, values := range parameters {
		k.config.Parameters[kind] = append(k.config.Parameters[kind], values...)
	}
	k.files++
	return nil
}

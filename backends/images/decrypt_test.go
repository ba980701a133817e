package images

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/messages"
)

// locked encrypts a layer for a key by the library (JWE), and gives the key.
func locked(t *testing.T, plain packed) (l packed, annotations map[string]string, private []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	encode := func(kind string, der []byte, err error) []byte {
		ok(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	public := encode("PUBLIC KEY", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	private = encode("PRIVATE KEY", der, err)
	recipients, err := config.EncryptWithJwe([][]byte{public})
	ok(t, err)
	stream, finish, err := ocicrypt.EncryptLayer(recipients.EncryptConfig, bytes.NewReader(plain.blob), ispec.Descriptor{Digest: digest.FromBytes(plain.blob)})
	ok(t, err)
	blob, err := io.ReadAll(stream)
	ok(t, err)
	annotations, err = finish()
	ok(t, err)
	return packed{diffID: plain.diffID, blob: blob, suffix: plain.suffix + encryptedSuffix}, annotations, private
}

// pushLocked pushes an image whose second layer is encrypted.
func pushLocked(t *testing.T, reg *registry, compression string) (private []byte) {
	t.Helper()
	l, annotations, private := locked(t, layerOf(t, "secret", compression))
	reg.push(t, spec{repo: "locked", tag: "v", layers: []packed{layerOf(t, "open", "gzip"), l}, change: func(m *ispec.Manifest) {
		m.Layers[1].Annotations = annotations
	}})
	return private
}

func TestAnEncryptedLayerIsUnpackedWithTheNodesKey(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	for _, compression := range []string{"gzip", "zstd", ""} {
		private := pushLocked(t, reg, compression)
		dir := t.TempDir()
		s := open(t, reg, func(c *Config) { c.DecryptionKeys = dir })
		// As Kubernetes mounts a secret: links to a hidden folder.
		write(t, dir+"/..2026/key.pem", private)
		ok(t, os.Symlink("..2026/key.pem", dir+"/key.pem"))
		image := pull(t, s, ask(reg.addr+"/locked:v"))
		dirs, err := s.LayerDirs(context.Background(), image.ID)
		ok(t, err)
		if data, err := os.ReadFile(filepath.Join(dirs[0], "secret")); err != nil || string(data) != "content of secret" {
			t.Errorf("%q: %q, %v", compression, data, err)
		}
	}
}

func TestWithoutTheRightKeyNothingOfAnEncryptedImageIsFetched(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	pushLocked(t, reg, "gzip")
	_, _, stranger := locked(t, layerOf(t, "x", ""))
	for want, prepare := range map[string]func(dir string) string{
		"there is no key in":  func(dir string) string { return dir },
		"there is no key in ": func(dir string) string { return dir + "/not-there" },
		"no key in \"\"":      func(string) string { return "" },
		"none of the 1 keys":  func(dir string) string { write(t, dir+"/k", stranger); return dir },
		"/readme":             func(dir string) string { write(t, dir+"/readme", []byte("no key")); return dir },
	} {
		s := open(t, reg, func(c *Config) { c.DecryptionKeys = prepare(t.TempDir()) })
		_, err := s.Resolve(context.Background(), ask(reg.addr+"/locked:v"))
		if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("want %q: kind %v: %v", want, messages.KindOf(err), err)
		}
		wantNothing(t, s)
	}
}

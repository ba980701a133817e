package images

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the unpacking child.
func TestMain(m *testing.M) {
	if Init() {
		return
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	conformance.Images(t, func(t *testing.T) conformance.ImagesHarness {
		s := open(t, reg, nil)
		prefix := conformance.ID(t)[:12]
		return conformance.ImagesHarness{
			Images: s,
			Spoil: func(t *testing.T, word string) {
				files, err := filepath.Glob(s.cfg.GraphRoot + "/overlay/*/diff/" + word)
				ok(t, err)
				for _, file := range files {
					write(t, file, []byte("spoiled "+word))
				}
			},
			Unreachable: freeAddress(t) + "/app:one",
			Publish: func(t *testing.T, repo, tag string, words ...string) (string, string) {
				sp := spec{repo: prefix + "/" + repo, tag: tag}
				for _, w := range words {
					sp.layers = append(sp.layers, layerOf(t, w, "gzip"))
				}
				return reg.addr + "/" + sp.repo + ":" + tag, reg.push(t, sp).Digest.String()
			},
		}
	})
}

// open is a store of the test's own on a tmpfs. It must be empty of mounts and
// half-made layers when the test ends.
func open(t *testing.T, reg *registry, change func(*Config)) *Store {
	t.Helper()
	dir := tmpfs(t, "64m")
	write(t, dir+"/policy.json", []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`))
	write(t, dir+"/registries.conf", nil)
	ok(t, os.Mkdir(dir+"/registries.conf.d", 0o700))
	c := Config{
		GraphRoot: dir + "/root", RunRoot: dir + "/run", BlobDir: dir + "/blobs",
		RegistriesConf: dir + "/registries.conf", RegistriesConfDir: dir + "/registries.conf.d",
		PolicyPath: dir + "/policy.json", AuthFile: dir + "/auth.json", CertsDir: dir + "/certs.d",
		PullProgressTimeout: 10 * time.Second,
	}
	if reg != nil && reg.scheme == "http" {
		c.InsecureRegistries = []string{"127.0.0.0/8"}
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	ok(t, err)
	t.Cleanup(func() {
		s.behind.Wait() // what is being removed just now is not left
		staged, err := os.ReadDir(s.stagedDir())
		ok(t, err)
		for _, e := range staged {
			if _, err := os.Stat(filepath.Join(s.stagedDir(), e.Name(), stagedRecord)); err != nil {
				t.Errorf("half a staged layer is left: %v", err)
			}
		}
		ok(t, s.Close())
	})
	return s
}

func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() {
		for range 50 {
			if unix.Unmount(dir, 0) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s stays mounted", dir)
	})
	return dir
}

func ask(ref string) backends.PullRequest { return backends.PullRequest{Ref: ref} }

func pull(t *testing.T, s *Store, r backends.PullRequest) messages.Image {
	t.Helper()
	image, err := conformance.Pull(context.Background(), s, r)
	ok(t, err)
	return image
}

// wantNothing checks that a failed pull left no image, layer or blob.
func wantNothing(t *testing.T, s *Store) {
	t.Helper()
	images, err := s.store.Images()
	ok(t, err)
	layers, err := s.store.Layers()
	ok(t, err)
	markers, err := os.ReadDir(s.markerDir())
	ok(t, err)
	if len(images)+len(layers)+len(markers) > 0 {
		t.Errorf("left: images %v, layers %v, markers %v", images, layers, markers)
	}
}

// certificate is a CA and a server's certificate for 127.0.0.1 signed by it.
type certificate struct{ ca, cert, key []byte }

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, caKey.Public(), caKey)
	ok(t, err)
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, server, authority, key.Public(), caKey)
	ok(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	ok(t, err)
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return &certificate{encode("CERTIFICATE", ca), encode("CERTIFICATE", cert), encode("EC PRIVATE KEY", private)}
}

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
	"golang.org/x/crypto/bcrypt"
)

const user, password = "alice", "s3cret"

// registry is a real docker-registry on loopback.
type registry struct {
	addr   string
	client *http.Client
	scheme string
	auth   bool
	cmd    *exec.Cmd
}

func (r *registry) kill(t *testing.T) {
	t.Helper()
	ok(t, r.cmd.Process.Kill())
	_ = r.cmd.Wait() // "signal: killed" is what was asked for
}

type registryOptions struct {
	tls  *certificate
	auth bool
}

func startRegistry(t *testing.T, o registryOptions) *registry {
	t.Helper()
	dir := tmpfs(t, "64m")
	r := &registry{addr: freeAddress(t), client: &http.Client{}, scheme: "http", auth: o.auth}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nvalidation: {manifests: {urls: {allow: ['.']}}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: %s\n", dir, r.addr)
	if o.tls != nil {
		r.scheme = "https"
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(o.tls.ca)
		r.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		write(t, dir+"/cert.pem", o.tls.cert)
		write(t, dir+"/key.pem", o.tls.key)
		config += fmt.Sprintf("  tls: {certificate: %s/cert.pem, key: %s/key.pem}\n", dir, dir)
	}
	if o.auth {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		ok(t, err)
		write(t, dir+"/htpasswd", fmt.Appendf(nil, "%s:%s\n", user, hash))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	write(t, dir+"/config.yml", []byte(config))
	log, err := os.Create(dir + "/log")
	ok(t, err)
	cmd := exec.Command("docker-registry", "serve", dir+"/config.yml")
	cmd.Stdout, cmd.Stderr = log, log
	ok(t, cmd.Start())
	r.cmd = cmd
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	for range 100 {
		if conn, err := net.Dial("tcp", r.addr); err == nil {
			conn.Close()
			return r
		}
		time.Sleep(50 * time.Millisecond)
	}
	out, _ := os.ReadFile(dir + "/log")
	t.Fatalf("docker-registry does not listen on %s: %s", r.addr, out)
	return nil
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (r *registry) do(t *testing.T, method, url, contentType string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	ok(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.auth {
		req.SetBasicAuth(user, password)
	}
	resp, err := r.client.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	if out, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, url, resp.Status, out)
	}
	return resp
}

func (r *registry) pushBlob(t *testing.T, repo string, data []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(data)
	resp := r.do(t, http.MethodPost, fmt.Sprintf("%s://%s/v2/%s/blobs/uploads/", r.scheme, r.addr, repo), "", nil)
	location, err := resp.Location()
	ok(t, err)
	query := location.Query()
	query.Set("digest", d.String())
	location.RawQuery = query.Encode()
	r.do(t, http.MethodPut, location.String(), "application/octet-stream", data)
	return d
}

func (r *registry) pushManifest(t *testing.T, repo, tag, mime string, data []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(data)
	if tag == "" {
		tag = d.String()
	}
	r.do(t, http.MethodPut, fmt.Sprintf("%s://%s/v2/%s/manifests/%s", r.scheme, r.addr, repo, tag), mime, data)
	return d
}

// packed is a layer as pushed.
type packed struct {
	diffID digest.Digest
	blob   []byte
	suffix string // of the OCI media type

	annotations map[string]string
}

var zeroTime time.Time

func digestOf(l packed) string { return digest.FromBytes(l.blob).String() }

// layerOf is a layer with one file named and filled by the word.
func layerOf(t *testing.T, word, compression string) packed {
	t.Helper()
	return layerWith(t, map[string][]byte{word: []byte("content of " + word)}, compression)
}

func layerWith(t *testing.T, files map[string][]byte, compression string) packed {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for name, data := range files {
		ok(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1, 0)}))
		_, err := w.Write(data)
		ok(t, err)
	}
	ok(t, w.Close())
	p := packed{diffID: digest.FromBytes(plain.Bytes()), blob: plain.Bytes()}
	var out bytes.Buffer
	switch compression {
	case "gzip":
		z := gzip.NewWriter(&out)
		_, err := z.Write(p.blob)
		ok(t, err)
		ok(t, z.Close())
		p.blob, p.suffix = out.Bytes(), "+gzip"
	case "zstd":
		z, err := zstd.NewWriter(&out)
		ok(t, err)
		_, err = z.Write(p.blob)
		ok(t, err)
		ok(t, z.Close())
		p.blob, p.suffix = out.Bytes(), "+zstd"
	}
	return p
}

// spec is an image to be pushed.
type spec struct {
	repo, tag  string
	docker     bool // v2s2 instead of OCI
	layers     []packed
	config     ispec.ImageConfig
	arch       string // this machine's when empty
	configType string
	change     func(*ispec.Manifest)
}

// push gives the digest and the size of the manifest.
func (r *registry) push(t *testing.T, s spec) ispec.Descriptor {
	t.Helper()
	image := ispec.Image{Config: s.config, Platform: ispec.Platform{OS: "linux", Architecture: s.arch}}
	if s.arch == "" {
		image.Architecture = runtime.GOARCH
	}
	created := time.Unix(1000, 0).UTC()
	image.Created = &created
	image.RootFS.Type = "layers"
	m := ispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest}
	configType := ispec.MediaTypeImageConfig
	if s.docker {
		m.MediaType, configType = manifest.DockerV2Schema2MediaType, manifest.DockerV2Schema2ConfigMediaType
	}
	if s.configType != "" {
		configType = s.configType
	}
	for _, l := range s.layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.diffID)
		mime := ispec.MediaTypeImageLayer + l.suffix
		if s.docker {
			mime = manifest.DockerV2Schema2LayerMediaType
		}
		m.Layers = append(m.Layers, ispec.Descriptor{MediaType: mime, Digest: r.pushBlob(t, s.repo, l.blob), Size: int64(len(l.blob)), Annotations: l.annotations})
	}
	config, err := json.Marshal(image)
	ok(t, err)
	m.Config = ispec.Descriptor{MediaType: configType, Digest: r.pushBlob(t, s.repo, config), Size: int64(len(config))}
	if s.change != nil {
		s.change(&m)
	}
	data, err := json.Marshal(m)
	ok(t, err)
	return ispec.Descriptor{
		MediaType: m.MediaType, Digest: r.pushManifest(t, s.repo, s.tag, m.MediaType, data), Size: int64(len(data)),
		Platform: &image.Platform,
	}
}

func (r *registry) pushIndex(t *testing.T, repo, tag string, members ...ispec.Descriptor) digest.Digest {
	t.Helper()
	data, err := json.Marshal(ispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageIndex, Manifests: members,
	})
	ok(t, err)
	return r.pushManifest(t, repo, tag, ispec.MediaTypeImageIndex, data)
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	ok(t, os.MkdirAll(filepath.Dir(path), 0o700))
	ok(t, os.WriteFile(path, data, 0o600))
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package images

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

// front stands before a registry. Requests whose path has the word go to the
// handler instead, as long as there is one.
type front struct {
	addr    string
	word    string
	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int32 // how often the registry's front door (/v2/) was asked
}

func newFront(t *testing.T, reg *registry, word string) *front {
	t.Helper()
	f := &front{word: word}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg.addr})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			f.asked.Add(1)
		}
		if h := f.handler.Load(); h != nil && strings.Contains(r.URL.Path, f.word) {
			(*h)(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	f.addr = strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	return f
}

func (f *front) answer(h http.HandlerFunc) { f.handler.Store(&h) }

// hang answers a little and then nothing until the client goes.
func hang(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "100000")
	_, _ = w.Write([]byte("a little"))
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func layerFront(t *testing.T) (*registry, *front, packed) {
	t.Helper()
	reg := startRegistry(t, registryOptions{})
	noise := make([]byte, 100_000)
	_, _ = rand.Read(noise)
	layer := layerWith(t, map[string][]byte{"noise": noise}, "gzip")
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layer}})
	d := ispec.DescriptorEmptyJSON.Digest.Algorithm().FromBytes(layer.blob)
	return reg, newFront(t, reg, d.Encoded()), layer
}

func TestADownloadWithoutProgressEndsAndSaysHowFarItCame(t *testing.T) {
	reg, f, _ := layerFront(t)
	s := open(t, reg, func(c *Config) { c.PullProgressTimeout = 300 * time.Millisecond })
	f.answer(hang)
	begun := time.Now()
	_, err := conformance.Pull(context.Background(), s, ask(f.addr+"/a:v"))
	if messages.KindOf(err) != messages.Deadline || !strings.Contains(err.Error(), "8 of ") || time.Since(begun) > 5*time.Second {
		t.Errorf("after %v: error %v of kind %v", time.Since(begun), err, messages.KindOf(err))
	}
	wantNothing(t, s)
	f.handler.Store(nil)
	pull(t, s, ask(f.addr+"/a:v"))
}

func TestARegistryThatNeverAnswersEndsAResolve(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	f := newFront(t, reg, "manifests")
	f.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s := open(t, reg, nil)
	s.resolveLimit = 300 * time.Millisecond
	_, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	if messages.KindOf(err) != messages.RegistryUnavailable {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

func TestACutConnectionIsResumedOrReported(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(layer.blob)))
		_, _ = w.Write(layer.blob[:1000])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	f.answer(cut)
	_, err := conformance.Pull(context.Background(), s, ask(f.addr+"/a:v"))
	if messages.KindOf(err) != messages.RegistryUnavailable {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	wantNothing(t, s)
	// Cut once: the library goes on with a Range request.
	f.answer(func(w http.ResponseWriter, r *http.Request) { f.handler.Store(nil); cut(w, r) })
	pull(t, s, ask(f.addr+"/a:v"))
}

func TestWrongBytesAreNamedByBothDigestsAndNotKept(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	wrong := bytes.Repeat([]byte("x"), len(layer.blob))
	f.answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wrong) })
	_, err := conformance.Pull(context.Background(), s, ask(f.addr+"/a:v"))
	digests := ispec.DescriptorEmptyJSON.Digest.Algorithm()
	if err == nil || !strings.Contains(err.Error(), digests.FromBytes(layer.blob).String()) || !strings.Contains(err.Error(), digests.FromBytes(wrong).String()) {
		t.Errorf("error %v", err)
	}
	f.answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(wrong, wrong...)) })
	if _, err := conformance.Pull(context.Background(), s, ask(f.addr+"/a:v")); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many bytes: %v", err)
	}
	wantNothing(t, s)
	f.handler.Store(nil)
	pull(t, s, ask(f.addr+"/a:v"))
}

func TestAManifestOfAnotherDigestThanAskedForIsRefused(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	right := reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}}).Digest
	f := newFront(t, reg, right.Encoded())
	f.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ispec.MediaTypeImageManifest)
		_, _ = w.Write([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}`))
	})
	s := open(t, reg, nil)
	_, err := s.Resolve(context.Background(), ask(f.addr+"/a@"+right.String()))
	if err == nil || !strings.Contains(err.Error(), "wrong digest") || !strings.Contains(err.Error(), right.String()) {
		t.Errorf("error %v", err)
	}
}

func TestAnswersOfARegistryHaveTheirKind(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	f := newFront(t, reg, "manifests")
	s := open(t, reg, nil)
	for status, want := range map[int]messages.Kind{
		500: messages.RegistryUnavailable, 503: messages.RegistryUnavailable, 502: messages.RegistryUnavailable,
		401: messages.Unauthorized, 403: messages.Unauthorized, 404: messages.NotFound,
	} {
		for _, body := range []string{"", "<html>", `{"errors":[]}`} {
			f.answer(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			})
			_, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
			if messages.KindOf(err) != want {
				t.Errorf("%d %q: error %v of kind %v, want %v", status, body, err, messages.KindOf(err), want)
			}
		}
	}
}

func TestAllLayersOfAPullShareOneHandshake(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	var layers []packed
	for _, w := range []string{"a", "b", "c", "d"} {
		layers = append(layers, layerOf(t, w, "gzip"))
	}
	reg.push(t, spec{repo: "a", tag: "v", layers: layers})
	f := newFront(t, reg, "none")
	pull(t, open(t, reg, nil), ask(f.addr+"/a:v"))
	if n := f.asked.Load(); n != 1 {
		t.Errorf("the registry was greeted %d times", n)
	}
}

func TestContentThatIsNotWhatTheConfigurationSaysIsRefused(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	good, lying := layerOf(t, "good", "gzip"), layerOf(t, "evil", "gzip")
	lying.diffID = layerOf(t, "promised", "gzip").diffID
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{good, lying}})
	s := open(t, reg, nil)
	_, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:v"))
	if err == nil || !strings.Contains(err.Error(), lying.diffID.String()) {
		t.Errorf("error %v", err)
	}
	s.behind.Wait()
	wantNothing(t, s)
}

// An image whose configuration names the DiffID of a layer that is here must
// bring that layer's blob to get it.
func TestAStrangersDiffIDDoesNotGetTheStrangersFiles(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	secret, own := layerOf(t, "secret", "gzip"), layerOf(t, "own", "gzip")
	reg.push(t, spec{repo: "private", tag: "v", layers: []packed{secret}})
	own.diffID = secret.diffID
	reg.push(t, spec{repo: "thief", tag: "v", layers: []packed{own}})
	s := open(t, reg, nil)
	pull(t, s, ask(reg.addr+"/private:v"))
	if image, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/thief:v")); err == nil {
		t.Errorf("got image %s", image.ID)
	}
}

func TestWhatIsNotAContainerImageIsRefusedClearly(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layers := []packed{layerOf(t, "a", "gzip")}
	for tag, c := range map[string]struct {
		want string
		spec spec
	}{
		"plugin": {"artifact", spec{docker: true, configType: "application/vnd.docker.plugin.v1+json"}},
		"foreign": {"foreign layer", spec{change: func(m *ispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}}},
		"urls": {"foreign layer", spec{change: func(m *ispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			m.Layers[0].URLs = []string{"http://127.0.0.1:1/x"}
		}}},
		"encrypted": {"encrypted", spec{change: func(m *ispec.Manifest) { m.Layers[0].MediaType += "+encrypted" }}},
		"unknown":   {"not supported", spec{change: func(m *ispec.Manifest) { m.Layers[0].MediaType = "text/plain" }}},
	} {
		c.spec.repo, c.spec.tag, c.spec.layers = "a", tag, layers
		reg.push(t, c.spec)
		s := open(t, reg, nil)
		_, err := s.Resolve(context.Background(), ask(reg.addr+"/a:"+tag))
		if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v of kind %v", tag, err, messages.KindOf(err))
		}
	}
}

func TestAFullDiskIsSaidAtOnceWhenTheLayerCannotFit(t *testing.T) {
	reg, _, layer := layerFront(t)
	s := open(t, reg, func(c *Config) { c.BlobDir = tmpfs(t, "64k") })
	_, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), fmt.Sprint(len(layer.blob))) || !strings.Contains(err.Error(), s.cfg.BlobDir) {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	wantNothing(t, s)
}

func TestADiskThatFillsWhileUnpackingLeavesNothing(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	zeros := layerWith(t, map[string][]byte{"zeros": make([]byte, 8<<20)}, "gzip") // small as a blob
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), zeros}})
	s := open(t, reg, func(c *Config) {
		small := tmpfs(t, "4m")
		c.GraphRoot, c.RunRoot = small+"/root", small+"/run"
	})
	_, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:v"))
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), s.cfg.GraphRoot) {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	s.behind.Wait()
	wantNothing(t, s)
	if entries, _ := os.ReadDir(s.cfg.BlobDir); len(entries) > 1 {
		t.Errorf("blobs left: %v", entries)
	}
}

func TestADiskThatFillsDuringADownloadSaysSo(t *testing.T) {
	reg, f, layer := layerFront(t)
	dir := tmpfs(t, "256k")
	s := open(t, reg, func(c *Config) { c.BlobDir = dir })
	f.answer(func(w http.ResponseWriter, _ *http.Request) {
		write(t, dir+"/ballast", make([]byte, 200<<10)) // somebody else writes meanwhile
		_, _ = w.Write(layer.blob)
	})
	_, err := conformance.Pull(context.Background(), s, ask(f.addr+"/a:v"))
	if messages.KindOf(err) != messages.NoSpace || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
}

func TestACancelledDownloadEndsSoon(t *testing.T) {
	reg, f, _ := layerFront(t)
	s := open(t, reg, nil)
	f.answer(hang)
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	err = s.Fetch(ctx, ask(""), m, m.Layers[0], func(backends.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) || messages.KindOf(err) != messages.Canceled {
		t.Errorf("error %v of kind %v", err, messages.KindOf(err))
	}
	if err := s.Fetch(context.Background(), backends.PullRequest{}, backends.Manifest{}, m.Layers[0], nil); err == nil {
		t.Error("a manifest that was not resolved was accepted")
	}
}

// dying is a context that ends after it was asked a number of times.
type dying struct {
	context.Context
	left atomic.Int32
}

func (d *dying) Err() error {
	if d.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

func TestACommitThatIsCancelledAnywhereLeavesNothing(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layers := []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip"), layerOf(t, "c", "zstd")}
	reg.push(t, spec{repo: "a", tag: "v", layers: layers})
	s := open(t, reg, nil)
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	ok(t, err)
	for n := range int32(1000) {
		for _, l := range m.Layers {
			ok(t, s.Fetch(context.Background(), ask(""), m, l, nil))
		}
		ctx := &dying{Context: context.Background()}
		ctx.left.Store(n)
		if _, err := s.Commit(ctx, ask(""), m); err == nil {
			if n < 3 {
				t.Errorf("the context was asked only %d times", n)
			}
			return
		} else if messages.KindOf(err) != messages.Canceled {
			t.Errorf("cancelled at %d: error %v of kind %v", n, err, messages.KindOf(err))
		}
		wantNothing(t, s)
	}
	t.Error("no commit succeeded")
}

func TestALayerThatCannotBeRecordedLeavesNoTarSplit(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	ok(t, err)
	m.Layers = append(m.Layers, m.Layers[0])
	chain := []string{strings.Repeat("0", 64), strings.Repeat("1", 64)} // the first is not there
	s.layers.hold(chain)
	if err := s.putLayer(context.Background(), ask(""), m, chain, 1); err == nil {
		t.Error("a layer above one that is not there was recorded")
	}
	s.letGo(chain)
	wantNothing(t, s)
	if left, _ := filepath.Glob(filepath.Join(s.imageRoot(), "overlay-layers", "*.tar-split.gz")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("skopeo", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo %v: %v: %s", args, err, out)
	}
	return string(out)
}

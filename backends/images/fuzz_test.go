package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/messages"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/types"
)

// inTime ends the process, with all stacks, when one input takes for ever.
func inTime(t *testing.T) {
	timer := time.AfterFunc(time.Minute, func() { panic("this input takes for ever") })
	t.Cleanup(func() { timer.Stop() })
}

// stranger is a registry's answers, made up. In the manifests, IMAGE stands
// for the digest of the image's manifest and CONFIG for that of the
// configuration: no fuzzing finds those.
type stranger struct {
	types.ImageSource
	ref         types.ImageReference
	top, image  []byte
	config      []byte
	kind, inner string
}

func (s *stranger) Reference() types.ImageReference { return s.ref }
func (s *stranger) HasThreadSafeGetBlob() bool      { return true }
func (s *stranger) Close() error                    { return nil }

func (s *stranger) GetManifest(_ context.Context, instance *digest.Digest) ([]byte, string, error) {
	image := bytes.ReplaceAll(s.image, []byte("CONFIG"), []byte(digest.FromBytes(s.config)))
	if instance != nil {
		return image, s.inner, nil
	}
	top := bytes.ReplaceAll(s.top, []byte("CONFIG"), []byte(digest.FromBytes(s.config)))
	return bytes.ReplaceAll(top, []byte("IMAGE"), []byte(digest.FromBytes(image))), s.kind, nil
}

func (s *stranger) GetBlob(context.Context, types.BlobInfo, types.BlobInfoCache) (io.ReadCloser, int64, error) {
	return io.NopCloser(bytes.NewReader(s.config)), int64(len(s.config)), nil
}

func (s *stranger) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) { return nil, nil }

func (s *stranger) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}

var mimes = []string{
	ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex, manifest.DockerV2Schema2MediaType, manifest.DockerV2ListMediaType,
	manifest.DockerV2Schema1SignedMediaType, "", "text/plain", "application/json",
}

// fuzzStore is one store for all inputs: they only read it.
var fuzzStore = sync.OnceValues(func() (*Store, error) {
	dir, err := os.MkdirTemp("", "fuzz-store")
	if err != nil {
		return nil, err
	}
	policy := filepath.Join(dir, "policy.json")
	err = os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600)
	if err != nil {
		return nil, err
	}
	return New(Config{GraphRoot: dir + "/root", RunRoot: dir + "/run", PolicyPath: policy})
})

const (
	seedLayer  = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":20}`
	seedImage  = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"CONFIG","size":9},"layers":[` + seedLayer + `]}`
	seedDocker = `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"CONFIG","size":-1},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-9}]}`
	seedConfig = `{"architecture":"amd64","os":"linux","config":{"User":"a:b","Env":["A=b"],"Volumes":{"/v":{}},"StopSignal":"9","WorkingDir":"../x"},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"empty_layer":true}]}`
)

// FuzzManifest resolves an image whose index, manifest and configuration a
// stranger wrote. The answer is an image within our limits or an error with a
// kind and a text one can send.
func FuzzManifest(f *testing.F) {
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"IMAGE","size":7,"platform":{"architecture":"` + runtime.GOARCH + `","os":"linux","variant":"v8"}}]}`
	f.Add([]byte(seedImage), []byte{}, []byte(seedConfig), byte(0), byte(0))
	f.Add([]byte(index), []byte(seedImage), []byte(seedConfig), byte(1), byte(0))
	f.Add([]byte(index), []byte(index), []byte(seedConfig), byte(1), byte(1))
	f.Add([]byte(seedDocker), []byte{}, []byte(seedConfig), byte(2), byte(0))
	f.Add([]byte(strings.Replace(index, "IMAGE", "sha256:", 1)), []byte{}, []byte(`{}`), byte(3), byte(5))
	f.Add([]byte(`{"schemaVersion":1,"signatures":[{"header":{},"protected":"e30"}]}`), []byte{}, []byte(`null`), byte(4), byte(4))
	f.Add([]byte(`{"schemaVersion":2,"config":null,"layers":null,"manifests":[]}`), []byte{}, []byte(`{"rootfs":null}`), byte(5), byte(7))
	f.Add([]byte(seedImage), []byte{}, []byte(`{"config":{"Env":null,"Volumes":null},"rootfs":{"diff_ids":["x"]},"created":"9999-99-99"}`), byte(0), byte(0))
	named, err := reference.ParseNormalizedNamed("registry.test/app:one")
	if err != nil {
		f.Fatal(err)
	}
	ref, err := docker.NewReference(named)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, top, image, config []byte, kind, inner byte) {
		inTime(t)
		s, err := fuzzStore()
		ok(t, err)
		source := &stranger{ref: ref, top: top, image: image, config: config, kind: mimes[int(kind)%len(mimes)], inner: mimes[int(inner)%len(mimes)]}
		res := &resolved{source: source, named: named, rules: s.rules.Load()}
		m, err := s.read(context.Background(), s.rules.Load().systemFor(nil, named), res, "")
		if err != nil {
			var classified *messages.Error
			if !errors.As(err, &classified) || len(err.Error()) > 16<<10 {
				t.Fatalf("an error of %d bytes: %.1000v", len(err.Error()), err)
			}
			return
		}
		total := int64(0)
		for _, l := range m.Layers {
			if checkDigest(digest.Digest(l.Digest)) != nil || checkDigest(digest.Digest(l.DiffID)) != nil || l.Size < 0 || l.Size > math.MaxInt64-total {
				t.Fatalf("layer %+v", l)
			}
			total += l.Size
		}
		if len(m.Layers) > maxLayers || len(m.ConfigID) != 64 || len(bigData(res)) < 3 {
			t.Fatalf("%+v", m)
		}
		chainIDs(m.Layers)
		created(res.config.data)
	})
}

// FuzzLayer unpacks a tar that a stranger wrote. Nothing beside the layer's
// directory is touched, not much memory is used, and a layer that was taken
// can be given back byte for byte.
func FuzzLayer(f *testing.F) {
	for _, entries := range [][]entry{
		{file("f", "x"), folder("d"), link(tar.TypeSymlink, "l", "../canary"), file("l/x", "y")},
		{link(tar.TypeLink, "h", "../canary"), file("h", "x")},
		{folder("d"), file("d/.wh..wh..opq", ""), file(".wh.f", ""), file(".wh..wh..opq", "")},
		{file("../canary", "x"), file("/../canary", "x")},
		{link(tar.TypeSymlink, "l", ".."), link(tar.TypeLink, "c", "l/canary"), file("l/canary", "x"), file("l/.wh.canary", "")},
		{attribute(file("f", "x"), "trusted.overlay.redirect", "/etc"), attribute(folder("d"), "user.a", "b")},
		{entry{tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1, Devminor: 3}, ""}, entry{tar.Header{Typeflag: tar.TypeFifo, Name: "p"}, ""}},
		{file(strings.Repeat("long/", 60)+"f", ""), link(tar.TypeSymlink, "s", strings.Repeat("t", 300))},
		{folder("a/canary"), link(tar.TypeSymlink, "a", "..")},
	} {
		f.Add(tarred(f, entries...))
	}
	f.Add(sparseTar("hole", "1048576", "1\n1048572\n4\n", "end!"))
	f.Add(sparseTar("hole", "9223372036854775807", "0\n", ""))
	f.Add(append(paxBlock("path", "../canary", "size", "8"), tarred(f, file("f", "x"))...))
	f.Add(append(block('g', "g", 0, ""), block('S', "s", 0, "")...))
	f.Fuzz(func(t *testing.T, plain []byte) {
		inTime(t)
		outer := t.TempDir()
		dir, canary := filepath.Join(outer, "layer"), filepath.Join(outer, "canary")
		ok(t, os.Mkdir(dir, 0o755))
		ok(t, os.WriteFile(canary, []byte("untouched"), 0o640))
		ok(t, os.Chtimes(canary, time.Unix(7, 0), time.Unix(7, 0)))
		left := int64(32 << 20)
		var split bytes.Buffer
		checked := inspect(bytes.NewReader(plain), &split, func(n int64) error {
			if left -= n; left < 0 || n < 0 {
				return messages.Errorf(messages.NoSpace, "full")
			}
			return nil
		})
		got, err := unpack(checked, dir, nil)
		checkBeside(t, outer, canary)
		ok(t, checkAttributes(dir))
		if err != nil {
			return
		}
		asTheLibrary(t, plain)
		if got.DiffID != digest.FromBytes(plain) || got.Size != int64(len(plain)) {
			t.Fatalf("taken as %+v", got)
		}
		// tar-split keeps of a sparse file what it reads as, not what it was:
		// podman can run such an image, and cannot push it again.
		if !bytes.Contains(plain, []byte("GNU.sparse.")) {
			checkSplit(t, plain, &split)
		}
	})
}

// checkSplit makes the tar again from what was kept of it and the contents of
// its files.
func checkSplit(t *testing.T, plain []byte, split io.Reader) {
	t.Helper()
	content := storage.NewBufferFileGetPutter()
	stream, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(plain), storage.NewJSONPacker(io.Discard), content)
	ok(t, err)
	_, err = io.Copy(io.Discard, stream)
	ok(t, errors.Join(err, <-done))
	again := asm.NewOutputTarStream(content, storage.NewJSONUnpacker(split))
	defer again.Close()
	if data, err := io.ReadAll(again); err != nil || !bytes.Equal(data, plain) {
		t.Fatalf("given back as %d bytes, it has %d: %v", len(data), len(plain), err)
	}
}

func checkBeside(t *testing.T, outer, canary string) {
	t.Helper()
	entries, err := os.ReadDir(outer)
	ok(t, err)
	info, err := os.Lstat(canary)
	ok(t, err)
	data, err := os.ReadFile(canary)
	ok(t, err)
	if len(entries) != 2 || string(data) != "untouched" || info.Mode() != 0o640 || !info.ModTime().Equal(time.Unix(7, 0)) || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Fatalf("beside the layer: %v; the file there has %q, %v", entries, data, info)
	}
}

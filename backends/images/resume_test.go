package images

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/gate"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage/pkg/chunked/compressor"
)

// blobServer serves one blob and counts what it sends.
type blobServer struct {
	blob    []byte
	ranges  bool // whether it knows Range
	cutAt   int  // each connection ends after so many bytes; 0: never
	sent    atomic.Int64
	whole   atomic.Int32 // answers from the first byte
	partial atomic.Int32 // answers to a Range
}

func (b *blobServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from := 0
	if b.ranges {
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	}
	rest := b.blob[from:]
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
	if from > 0 {
		b.partial.Add(1)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b.blob)-1, len(b.blob)))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		b.whole.Add(1)
	}
	if b.cutAt > 0 && len(rest) > b.cutAt {
		n, _ := w.Write(rest[:b.cutAt])
		b.sent.Add(int64(n))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	n, _ := w.Write(rest)
	b.sent.Add(int64(n))
}

func TestADownloadThatIsCutAgainAndAgainGoesOnByRange(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	b := &blobServer{blob: layer.blob, ranges: true, cutAt: 20_000}
	f.answer(b.ServeHTTP)
	var troubles atomic.Int32
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	ok(t, s.Fetch(context.Background(), ask(""), m, m.Layers[0], func(p backends.Progress) {
		if p.Trouble != "" {
			troubles.Add(1)
		}
	}))
	if b.sent.Load() != int64(len(layer.blob)) || b.whole.Load() != 1 {
		t.Errorf("a blob of %d bytes: %d sent, %d times from the start", len(layer.blob), b.sent.Load(), b.whole.Load())
	}
	if troubles.Load() == 0 {
		t.Error("nobody was told why it takes long")
	}
	_, err = s.Commit(context.Background(), ask(""), m)
	ok(t, err)
}

func TestARegistryWithoutRangeIsReadFromTheStartAgain(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	b := &blobServer{blob: layer.blob}
	write(t, s.blobPath(digestOf(layer))+partialSuffix, layer.blob[:60_000])
	f.answer(b.ServeHTTP)
	pull(t, s, ask(f.addr+"/a:v"))
}

func TestARegistryThatCallsRangeAnErrorIsReadFromTheStartAgain(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented} {
		reg, f, layer := layerFront(t)
		s := open(t, reg, nil)
		write(t, s.blobPath(digestOf(layer))+partialSuffix, layer.blob[:60_000])
		f.answer(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(status)
				return
			}
			_, _ = w.Write(layer.blob)
		})
		pull(t, s, ask(f.addr+"/a:v"))
	}
}

func TestWhatAKilledDaemonHasDownloadedIsNotDownloadedAgain(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	b := &blobServer{blob: layer.blob, ranges: true}
	write(t, s.blobPath(digestOf(layer))+partialSuffix, layer.blob[:60_000])
	f.answer(b.ServeHTTP)
	pull(t, s, ask(f.addr+"/a:v"))
	if want := int64(len(layer.blob) - 60_000); b.sent.Load() != want {
		t.Errorf("%d bytes were sent, %d were missing", b.sent.Load(), want)
	}
}

func TestAPartialBlobThatIsNotTheBlobIsFetchedAnew(t *testing.T) {
	for name, partial := range map[string]func([]byte) []byte{
		"garbage":  func([]byte) []byte { return bytes.Repeat([]byte("x"), 60_000) },
		"bit rot":  func(b []byte) []byte { b = bytes.Clone(b[:60_000]); b[30_000] ^= 1; return b },
		"too long": func(b []byte) []byte { return append(bytes.Clone(b), b...) },
		"as long":  func(b []byte) []byte { b = bytes.Clone(b); b[30_000] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			reg, f, layer := layerFront(t)
			s := open(t, reg, nil)
			f.answer((&blobServer{blob: layer.blob, ranges: true}).ServeHTTP)
			write(t, s.blobPath(digestOf(layer))+partialSuffix, partial(layer.blob))
			pull(t, s, ask(f.addr+"/a:v"))
		})
	}
}

func TestALayerThatWasStagedBeforeAKillIsNotFetchedAgain(t *testing.T) {
	reg, f, _ := layerFront(t)
	s := open(t, reg, nil)
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	ok(t, s.Fetch(context.Background(), ask(""), m, m.Layers[0], nil))
	ok(t, os.Mkdir(s.stagedDir()+"/sha256-half", 0o700)) // of a layer that was not done
	rebooted := s.stagedDir() + "/sha256-rebooted"       // of one that may not have come to the disk
	write(t, rebooted+"/"+stagedRecord, []byte(`{"Digest":"sha256:1","Boot":"another"}`))
	write(t, rebooted+"/"+stagedSplit, nil)
	ok(t, os.Mkdir(rebooted+"/"+stagedFiles, 0o700))
	again, err := New(s.cfg) // as if killed
	ok(t, err)
	f.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
	image := pull(t, again, ask(f.addr+"/a:v"))
	if _, err := again.LayerDirs(context.Background(), image.ID); err != nil {
		t.Error(err)
	}
	again.behind.Wait()
	if left, _ := os.ReadDir(again.stagedDir()); len(left) > 0 {
		t.Errorf("left beside the store: %v", left)
	}
}

func TestACommitThatWasCutOffAnywhereIsMadeGoodByTheNextPull(t *testing.T) {
	for name, cut := range map[string]func(*Store, *stagedLayer, string) error{
		"its tar-split has its place": func(s *Store, st *stagedLayer, id string) error {
			return os.Rename(st.dir+"/"+stagedSplit, s.splitPath(id))
		},
		"its files have theirs": func(_ *Store, st *stagedLayer, _ string) error {
			return os.RemoveAll(st.dir + "/" + stagedFiles)
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := startRegistry(t, registryOptions{})
			reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
			s := open(t, reg, nil)
			m, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
			ok(t, err)
			ok(t, s.Fetch(context.Background(), ask(""), m, m.Layers[0], nil))
			id := chainIDs(m.Layers)[0]
			s.layers.hold([]string{id})
			ok(t, s.layers.making(s.markerPath(id), id))
			ok(t, cut(s, s.ready(m.Layers[0]), id))
			write(t, s.cfg.GraphRoot+"/overlay-layers/.tmp-layers.json1", []byte("half"))
			ok(t, os.Chtimes(s.cfg.GraphRoot+"/overlay-layers/.tmp-layers.json1", zeroTime, time.Unix(1, 0)))
			again, err := New(s.cfg)
			ok(t, err)
			again.behind.Wait()
			wantNothing(t, again)
			for _, pattern := range []string{again.splitPath("*"), s.cfg.GraphRoot + "/overlay-layers/.tmp-*"} {
				if left, _ := filepath.Glob(pattern); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
			pull(t, again, ask(reg.addr+"/a:v"))
		})
	}
}

func TestRegistriesThatStandStillKeepNobodyFromUnpacking(t *testing.T) {
	reg, f, _ := layerFront(t)
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{layerOf(t, "b", "gzip")}})
	s := open(t, reg, nil)
	s.cores = gate.New(1)
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	f.answer(hang)
	ctx, cancel := context.WithCancel(context.Background())
	begun, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- s.Fetch(ctx, ask(""), m, m.Layers[0], func(p backends.Progress) {
			if p.Received > 0 {
				once.Do(func() { close(begun) })
			}
		})
	}()
	<-begun
	other, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	if _, err := conformance.Pull(other, s, ask(reg.addr+"/b:v")); err != nil {
		t.Errorf("while another registry stands still: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that stands still ended with %v", err)
	}
	given, late := context.WithTimeout(context.Background(), time.Second)
	defer late()
	if err := s.cores.Enter(given, 0); err != nil {
		t.Error("its slot was not given back")
	}
}

func TestALayerOfAnyLengthIsUnpacked(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	const header, end = 512, 1024
	for name, size := range map[string]int{
		"ends-with-a-piece": 4*aheadSize - header - end, "ends-before": 4*aheadSize - 2*header - end, "ends-after": 4*aheadSize - end,
	} {
		plain := layerWith(t, map[string][]byte{"f": noise(t, size)}, "").blob
		for tag, blob := range map[string][]byte{
			name: plain, name + "-padded": append(bytes.Clone(plain), make([]byte, 10240)...), name + "-without-its-end": plain[:len(plain)-end],
		} {
			reg.push(t, spec{repo: "a", tag: tag, layers: []packed{{diffID: digest.FromBytes(blob), blob: blob}}})
			if _, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:"+tag)); err != nil {
				t.Errorf("%s: %v", tag, err)
			}
		}
	}
}

func TestAnImageThatLostItsDataBeforeItHadANameIsNoImage(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	ok(t, s.store.SetNames(image.ID, nil))
	ok(t, os.Remove(s.cfg.GraphRoot+"/overlay-images/"+image.ID+"/manifest"))
	again, err := New(s.cfg)
	ok(t, err)
	wantNothing(t, again)
	_, err = again.store.CreateImage(image.ID, nil, "", "{}", nil) // and nothing more came to the disk
	ok(t, err)
	again, err = New(s.cfg)
	ok(t, err)
	wantNothing(t, again)
	pull(t, again, ask(reg.addr+"/a:v"))
	ok(t, again.store.SetNames(image.ID, nil)) // whole, it may be somebody's
	last, err := New(s.cfg)
	ok(t, err)
	if all, err := last.List(context.Background()); err != nil || len(all) != 1 {
		t.Errorf("%d images, %v", len(all), err)
	}
}

func TestTheLibrarysSourceGivesParts(t *testing.T) {
	reg, f, layer := layerFront(t)
	s := open(t, reg, nil)
	named, err := reference.ParseNormalizedNamed(f.addr + "/a:v")
	ok(t, err)
	ref, err := docker.NewReference(named)
	ok(t, err)
	source, err := ref.NewImageSource(context.Background(), s.rules.Load().systemFor(nil, named))
	ok(t, err)
	defer source.Close()
	m, err := s.Resolve(context.Background(), ask(f.addr+"/a:v"))
	ok(t, err)
	stream, err, can := rest(context.Background(), source, infoOf(m.Layers[0]), 70_000)
	if !can {
		t.Fatal("GetBlobAt is gone: downloads are not resumed, zstd:chunked layers fetched whole")
	}
	ok(t, err)
	got, err := io.ReadAll(stream)
	ok(t, err)
	if !bytes.Equal(got, layer.blob[70_000:]) {
		t.Errorf("%d bytes, want %d", len(got), len(layer.blob)-70_000)
	}
	stream.Close()
}

func TestOfAChunkedLayerOnlyTheMissingFilesAreFetched(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	files := map[string][]byte{}
	for i := range 20 {
		files[fmt.Sprintf("file-%02d", i)] = noise(t, 100_000)
	}
	old := chunkedLayer(t, files)
	reg.push(t, spec{repo: "a", tag: "old", layers: []packed{old}})
	files["file-07"] = noise(t, 100_000)
	updated := chunkedLayer(t, files)
	reg.push(t, spec{repo: "a", tag: "new", layers: []packed{updated}})
	f := newFront(t, reg, "blobs/"+digestOf(updated))
	s := open(t, reg, nil)
	pull(t, s, ask(reg.addr+"/a:old"))

	var sent atomic.Int64
	f.answer(func(w http.ResponseWriter, r *http.Request) {
		counting := &countingWriter{ResponseWriter: w, n: &sent}
		http.ServeContent(counting, r, "", zeroTime, bytes.NewReader(updated.blob))
	})
	image := pull(t, s, ask(f.addr+"/a:new"))
	if n := sent.Load(); n == 0 || n > 300_000 {
		t.Errorf("one file of 100,000 bytes is new; of a blob of %d, %d bytes were sent", len(updated.blob), n)
	}
	dirs, err := s.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	for name, want := range files {
		if got, err := os.ReadFile(dirs[0] + "/" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if image2 := pull(t, s, ask(reg.addr+"/a:new")); image2.ID != image.ID {
		t.Errorf("pulled again it is %s, was %s", image2.ID, image.ID)
	}
	wantSound(t, s)
}

func TestAChunkedLayerThatLiesAboutItsFilesIsRefused(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	layer := chunkedLayer(t, map[string][]byte{"a": noise(t, 100_000)})
	layer.diffID = layerOf(t, "other", "").diffID
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layer}})
	s := open(t, reg, nil)
	_, err := conformance.Pull(context.Background(), s, ask(reg.addr+"/a:v"))
	if err == nil || !strings.Contains(err.Error(), layer.diffID.String()) {
		t.Errorf("error %v", err)
	}
	wantNothing(t, s)
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	ok(t, err)
	return b
}

func chunkedLayer(t *testing.T, files map[string][]byte) packed {
	t.Helper()
	return chunkedOf(t, layerWith(t, files, ""))
}

func chunkedOf(t *testing.T, plain packed) packed {
	t.Helper()
	var out bytes.Buffer
	p := packed{diffID: plain.diffID, suffix: "+zstd", annotations: map[string]string{}}
	w, err := compressor.ZstdCompressor(&out, p.annotations, nil)
	ok(t, err)
	_, err = w.Write(plain.blob)
	ok(t, err)
	ok(t, w.Close())
	p.blob = out.Bytes()
	return p
}

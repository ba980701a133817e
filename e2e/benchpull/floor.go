package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// floor does what no pull can do without, by bare libraries and nothing
// around them: download, hash the blob, decompress, hash what comes out,
// unpack. All layers at once, so that no core waits; then one syncfs.
type floor struct {
	dir    string
	igzip  string // the program; empty: klauspost's gzip
	number int
}

func (f *floor) pull(ctx context.Context, ref string) error {
	base, manifest, err := manifestOf(ctx, ref)
	if err != nil {
		return err
	}
	slices.SortFunc(manifest.Layers, func(a, b ispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range manifest.Layers {
		f.number++
		dir := filepath.Join(f.dir, fmt.Sprint(f.number))
		g.Go(func() error { return f.layer(ctx, base+"/blobs/"+l.Digest.String(), l, dir) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return syncfs(f.dir)
}

func manifestOf(ctx context.Context, ref string) (base string, m ispec.Manifest, err error) {
	host, name, _ := strings.Cut(strings.TrimSuffix(ref, ":latest"), "/")
	base = "http://" + host + "/v2/" + name
	body, err := get(ctx, base+"/manifests/latest")
	if err != nil {
		return "", m, err
	}
	defer body.Close()
	return base, m, json.NewDecoder(body).Decode(&m)
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s: %s", url, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

func (f *floor) layer(ctx context.Context, url string, l ispec.Descriptor, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	body, err := get(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	packed, unpacked := sha256.New(), sha256.New()
	blob := io.TeeReader(body, packed)
	stream, err := f.decompress(ctx, blob, l.MediaType)
	if err != nil {
		return err
	}
	content := io.TeeReader(stream, unpacked)
	if err := archive.Unpack(content, dir, &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, content); err != nil { // the padding
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	return sameDigest(packed, l.Digest)
}

func sameDigest(h hash.Hash, want digest.Digest) error {
	if got := digest.NewDigest(digest.SHA256, h); got != want {
		return fmt.Errorf("the blob has digest %s, not %s", got, want)
	}
	return nil
}

func (f *floor) decompress(ctx context.Context, r io.Reader, mediaType string) (io.ReadCloser, error) {
	switch {
	case mediaType == ispec.MediaTypeImageLayerZstd:
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case f.igzip == "":
		return gzip.NewReader(bufio.NewReaderSize(r, 1<<20))
	}
	cmd := exec.CommandContext(ctx, f.igzip, "-d", "-c")
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return filter{out, cmd}, cmd.Start()
}

type filter struct {
	io.Reader
	cmd *exec.Cmd
}

func (f filter) Close() error { return f.cmd.Wait() }

func syncfs(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/chunked"
	"go.podman.io/storage/pkg/chunked/toc"
)

// tocOf is the digest of a layer's table of contents: of zstd:chunked and
// eStargz layers. "" for others.
func tocOf(l backends.Layer) digest.Digest {
	d, err := toc.GetTOCDigest(l.Annotations)
	if err != nil || d == nil {
		return ""
	}
	return *d
}

// stageChunked fetches of a layer with a table of contents only the files that
// no layer of the store has. staged is nil, without an error, when that cannot
// be done: the whole blob is to be fetched then.
func (s *Store) stageChunked(ctx context.Context, res *resolved, l backends.Layer, m *meter) (staged *stagedLayer, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var bytes atomic.Int64
	source := &ranges{
		ctx: ctx, source: res.source, info: infoOf(l),
		seen:  func(n int64) { m.received(bytes.Add(n)) },
		limit: s.cfg.PullProgressTimeout, stalled: func() { cancel(errNoProgress) },
	}
	if isEncrypted(l.MediaType) || tocOf(l) == "" || !source.can() {
		return nil, nil
	}
	if source.packed, err = packedParts(l); err != nil {
		return nil, s.orWhole(ctx, l, err)
	}
	out, err := s.runDiffer(ctx, l, source)
	if err != nil {
		return nil, s.orWhole(ctx, l, err)
	}
	defer func() { err = errors.Join(err, s.store.CleanupStagedLayer(out)) }()
	if out.TarSplit == nil || out.UncompressedDigest == "" {
		s.log.Info("layer is fetched whole", "layer", l.Digest, "why", "its table of contents is not enough to verify it")
		return nil, nil
	}
	if err := checkContent(l, out.UncompressedDigest); err != nil {
		return nil, err
	}
	if err := checkAttributes(out.Target); err != nil {
		return nil, err
	}
	return s.takeOver(l, out)
}

// orWhole says whether fetching the whole blob is worth trying after an error:
// that goes on where a connection was cut, and says better what is wrong.
func (s *Store) orWhole(ctx context.Context, l backends.Layer, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errNoProgress):
		return messages.Errorf(messages.Deadline, "%w for %s (pull_progress_timeout)", errNoProgress, s.cfg.PullProgressTimeout)
	case ctx.Err() != nil, isFull(err):
		return err
	}
	s.log.Info("layer is fetched whole", "layer", l.Digest, "why", err)
	return nil
}

func (s *Store) runDiffer(ctx context.Context, l backends.Layer, source *ranges) (*graphdriver.DriverWithDifferOutput, error) {
	differ, err := chunked.NewDiffer(ctx, s.store, digest.Digest(l.Digest), l.Size, l.Annotations, source)
	if err != nil {
		return nil, err
	}
	defer differ.Close()
	return s.store.PrepareStagedLayer(nil, differ)
}

// takeOver makes a staged layer of what the library has made.
func (s *Store) takeOver(l backends.Layer, out *graphdriver.DriverWithDifferOutput) (_ *stagedLayer, err error) {
	dir, err := s.newStaged(l)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := os.Remove(filepath.Join(dir, stagedFiles)); err != nil {
		return nil, err
	}
	if err := os.Rename(out.Target, filepath.Join(dir, stagedFiles)); err != nil {
		return nil, err
	}
	if err := compressTo(filepath.Join(dir, stagedSplit), out.TarSplit); err != nil {
		return nil, fmt.Errorf("tar-split: %w", err)
	}
	return &stagedLayer{
		unpacked: unpacked{DiffID: out.UncompressedDigest, Size: out.Size, UIDs: out.UIDs, GIDs: out.GIDs, RootMode: out.RootDirMode},
		Digest:   digest.Digest(l.Digest), BlobSize: l.Size, TOCDigest: out.TOCDigest, BigData: out.BigData, dir: dir,
	}, nil
}

func compressTo(path string, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	compressed, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(compressed, from); err != nil {
		return err
	}
	return compressed.Close()
}

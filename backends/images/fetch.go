package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Fetch stages one layer. Calls for the same blob, of whatever image, take
// turns, and the later ones find it there.
func (s *Store) Fetch(ctx context.Context, _ backends.PullRequest, m backends.Manifest, l backends.Layer, progress func(backends.Progress)) error {
	res, err := opaque(m)
	if err != nil {
		return err
	}
	if err := checkDigest(digest.Digest(l.Digest)); err != nil {
		return messages.Errorf(messages.Invalid, "layer of %s: %w", m.Ref, err)
	}
	unlock, err := s.blobLocks.lock(ctx, l.Digest)
	if err != nil {
		return messages.Errorf(messages.KindOf(err), "layer %s of %s: %w", l.Digest, m.Ref, err)
	}
	defer unlock()
	meter := &meter{tell: progress}
	if res.artifact == nil && (s.stored(l) != "" || s.ready(l) != nil) {
		meter.received(max(l.Size, 0))
		return nil
	}
	if full := res.full.Load(); full != nil {
		err = *full
	} else {
		err = s.fetch(ctx, res, m, l, meter)
	}
	if messages.KindOf(err) == messages.NoSpace {
		// The retry will have to download again; that is better than to leave
		// the node full.
		res.full.CompareAndSwap(nil, &err)
		s.behind.Go(func() { s.dropSoon(m.Layers) })
	}
	if isUseless(err) && res.artifact == nil {
		res.useless.Store(true)
		s.behind.Go(func() { s.dropApplied(m.Layers) })
	}
	if err != nil {
		return storeError(err, "layer %s of %s", l.Digest, m.Ref)
	}
	return nil
}

func (s *Store) fetch(ctx context.Context, res *resolved, m backends.Manifest, l backends.Layer, meter *meter) error {
	if res.artifact != nil {
		return s.fetchFile(ctx, res, l, meter)
	}
	release, err := s.reserve(m, l)
	if err != nil {
		return err
	}
	defer release()
	st, err := s.stageChunked(ctx, res, l, meter)
	if err == nil && st == nil {
		st, err = s.stage(ctx, res, l, meter)
	}
	if err != nil {
		return err
	}
	if err := s.keep(st); err != nil {
		return errors.Join(err, os.RemoveAll(st.dir))
	}
	// Not before: until the layer is on disk, the blob is what a try that comes
	// after a cancelled one, or a killed daemon, goes on with.
	return ignoreMissing(os.Remove(s.blobPath(l.Digest) + partialSuffix))
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// stage downloads into a file while a second goroutine follows it: decompresses,
// hashes and unpacks. When the download is over, so is nearly all of the work.
func (s *Store) stage(ctx context.Context, res *resolved, l backends.Layer, m *meter) (*stagedLayer, error) {
	blob, err := s.openBlob(l)
	if err != nil {
		return nil, err
	}
	defer blob.file.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unpacking, stop := context.WithCancel(ctx)
	defer stop()
	brought := make(chan error, 1)
	go func() {
		d := &download{source: res.source, layer: l, blob: blob, limit: s.cfg.PullProgressTimeout, progress: m}
		err := d.run(ctx)
		blob.end(err)
		if err != nil {
			stop() // also the waiting for a core
		}
		brought <- err
	}()
	st, unpackErr := s.unpackBlob(unpacking, l, blob, m)
	final := unpackErr != nil && (isFull(unpackErr) || isRefused(unpackErr))
	if final {
		cancel(unpackErr) // whatever else comes
	}
	downloadErr := <-brought // that says whether the bytes were right at all
	switch {
	case unpackErr != nil && isFull(unpackErr):
		free, _ := freeBytes(s.imageRoot())
		err = messages.Errorf(messages.NoSpace, "unpacking: %s is full (%d bytes free): %w", s.imageRoot(), free, unpackErr)
	case downloadErr != nil && !final:
		err = s.downloadError(ctx, downloadErr, l, blob)
	case unpackErr != nil:
		err = storeError(unpackErr, "unpacking")
	}
	if isUseless(err) {
		err = errors.Join(err, ignoreMissing(os.Remove(blob.path)))
	}
	return st, err
}

// isUseless: what has come is of no use to the next try, or too much for the node.
func isUseless(err error) bool {
	return err != nil && (messages.KindOf(err) == messages.Internal || messages.KindOf(err) == messages.NoSpace || isRefused(err))
}

// unpackBlob unpacks what comes into the blob's file. Nothing stays of what
// fails.
func (s *Store) unpackBlob(ctx context.Context, l backends.Layer, blob *blobFile, m *meter) (*stagedLayer, error) {
	for fast := useFilter(l.Size); ; fast = false {
		bytes := blob.follow(&slot{ctx: ctx, cores: s.cores, size: l.Size})
		st, err := s.unpackTry(ctx, l, bytes, m, fast)
		if err == nil || ctx.Err() != nil || isFull(err) || isRefused(err) {
			return st, err
		}
		right, failed := blob.verdict(bytes)
		if failed != nil {
			return nil, failed
		}
		if right && !fast {
			return nil, err
		}
		// Either what an earlier try has left was not the blob, or the filter
		// process has its own idea of what is damaged: ours decides.
	}
}

func (s *Store) unpackTry(ctx context.Context, l backends.Layer, bytes *follower, m *meter, fast bool) (*stagedLayer, error) {
	if err := bytes.slot.enter(); err != nil {
		return nil, err
	}
	defer bytes.slot.leave()
	packed, err := s.decrypted(l, bytes)
	if err != nil {
		return nil, err
	}
	plain, err := decompress(packed, fast)
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	defer plain.Close()
	defer bytes.close() // before that: a filter's end waits for who feeds it
	// A blob that has come whole would be unpacked to its end for nobody.
	st, err := s.unpackStream(l, withContext{ctx, bufio.NewReaderSize(plain, aheadSize)}, m)
	if err == nil {
		st.BlobSize = bytes.at // all of it: its end comes only after the digest was right
	}
	return st, err
}

// unpackStream unpacks an uncompressed layer into a staged one that is not kept
// yet.
func (s *Store) unpackStream(l backends.Layer, plain io.Reader, m *meter) (_ *stagedLayer, err error) {
	dir, err := s.newStaged(l)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	split, err := os.OpenFile(filepath.Join(dir, stagedSplit), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer split.Close()
	budget, err := newUnpackBudget(s.imageRoot())
	if err != nil {
		return nil, err
	}
	defer budget.Close()
	headers, err := gzip.NewWriterLevel(split, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	got, err := unpack(inspect(plain, headers, budget.spend), filepath.Join(dir, stagedFiles), m.unpacked)
	if err == nil {
		err = headers.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	if err := checkContent(l, got.DiffID); err != nil {
		return nil, err
	}
	return &stagedLayer{unpacked: got, Digest: digest.Digest(l.Digest), BlobSize: l.Size, dir: dir}, nil
}

// checkContent: what a layer becomes is promised by the image's configuration.
func checkContent(l backends.Layer, got digest.Digest) error {
	if got.String() == l.DiffID {
		return nil
	}
	return messages.Errorf(messages.Internal, "its content is not what the image's configuration says: want %s, got %s", l.DiffID, got)
}

func (s *Store) downloadError(ctx context.Context, err error, l backends.Layer, blob *blobFile) error {
	what := fmt.Sprintf("%d of %d bytes received", blob.size, l.Size)
	switch {
	case ctx.Err() != nil:
		return messages.Errorf(messages.KindOf(ctx.Err()), "%s: %w", what, ctx.Err())
	case errors.Is(err, errNoProgress):
		return messages.Errorf(messages.Deadline, "%s: %w for %s (pull_progress_timeout)", what, errNoProgress, s.cfg.PullProgressTimeout)
	case errors.Is(err, errWrongBytes), errors.Is(err, errTooLong):
		return messages.Errorf(messages.Internal, "%s: %w", what, err)
	case isFull(err):
		free, _ := freeBytes(s.cfg.BlobDir)
		return messages.Errorf(messages.NoSpace, "%s: %s is full (%d bytes free): %w", what, s.cfg.BlobDir, free, err)
	}
	return registryError(ctx, err, "%s", what)
}

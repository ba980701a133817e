package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"
)

var errNoProgress = errors.New("no byte has come")

// Fetch brings one layer into the blob cache. Calls for the same blob, of
// whatever image, take turns, and the later ones find it there.
func (s *Store) Fetch(ctx context.Context, _ backends.PullRequest, m backends.Manifest, l backends.Layer, progress func(backends.Progress)) error {
	if progress == nil {
		progress = func(backends.Progress) {}
	}
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
	// An artifact's blob is a file of a volume, whatever layer is made of it too.
	if (res.artifact == nil && s.stored(l) != "") || s.cached(l) {
		progress(backends.Progress{Received: max(l.Size, 0)})
		return nil
	}
	if err := s.checkSpace(m.Ref, l); err != nil {
		return err
	}
	return s.download(ctx, res, m.Ref, l, progress)
}

// checkSpace refuses at once what cannot fit.
func (s *Store) checkSpace(ref string, l backends.Layer) error {
	free, err := freeBytes(s.cfg.BlobDir)
	if err != nil {
		return storeError(err, "layer %s of %s", l.Digest, ref)
	}
	if l.Size > 0 && uint64(l.Size) > free {
		return messages.Errorf(messages.NoSpace, "layer %s of %s has %d bytes, %s has only %d free", l.Digest, ref, l.Size, s.cfg.BlobDir, free)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// download writes <digest>.partial and renames it to <digest> once its content
// is known to be right and on disk.
func (s *Store) download(ctx context.Context, res *resolved, ref string, l backends.Layer, progress func(backends.Progress)) (err error) {
	partial := s.blobPath(l.Digest) + partialSuffix
	file, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return storeError(err, "layer %s of %s", l.Digest, ref)
	}
	defer func() {
		file.Close()
		if err != nil {
			_ = os.Remove(partial) // swept later if this fails
		}
	}()
	w := &watched{file: file, hash: digest.SHA256.Digester(), want: l, progress: progress, limit: s.cfg.PullProgressTimeout}
	if err := w.copy(ctx, res); err != nil {
		return s.downloadError(ctx, err, ref, l, w.bytes)
	}
	if got := w.hash.Digest(); got.String() != l.Digest {
		return wrongDigest(fmt.Sprintf("layer of %s (%d bytes)", ref, w.bytes), digest.Digest(l.Digest), got)
	}
	if err := s.keepBlob(file, partial, l.Digest); err != nil {
		return storeError(err, "layer %s of %s", l.Digest, ref)
	}
	return nil
}

func (s *Store) downloadError(ctx context.Context, err error, ref string, l backends.Layer, bytes int64) error {
	what := fmt.Sprintf("layer %s of %s, %d of %d bytes received", l.Digest, ref, bytes, l.Size)
	switch {
	case ctx.Err() != nil:
		return messages.Errorf(messages.KindOf(ctx.Err()), "%s: %w", what, ctx.Err())
	case errors.Is(err, errNoProgress):
		return messages.Errorf(messages.Deadline, "%s: %w for %s (pull_progress_timeout)", what, errNoProgress, s.cfg.PullProgressTimeout)
	case isFull(err):
		free, _ := freeBytes(s.cfg.BlobDir)
		return messages.Errorf(messages.NoSpace, "%s: %s is full (%d bytes free): %w", what, s.cfg.BlobDir, free, err)
	}
	return registryError(ctx, err, "%s", what)
}

// watched is one download: it hashes, counts, and ends when nothing comes.
type watched struct {
	file     *os.File
	hash     digest.Digester
	want     backends.Layer
	progress func(backends.Progress)
	limit    time.Duration
	bytes    int64
}

func (w *watched) copy(ctx context.Context, res *resolved) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := func() {}
	if w.limit > 0 {
		timer := time.AfterFunc(w.limit, func() { cancel(errNoProgress) })
		defer timer.Stop()
		alive = func() { timer.Reset(w.limit) }
	}
	stream, _, err := res.source.GetBlob(ctx, types.BlobInfo{
		Digest: digest.Digest(w.want.Digest), Size: w.want.Size, MediaType: w.want.MediaType,
	}, none.NoCache)
	if err == nil {
		defer stream.Close()
		err = w.drain(stream, alive)
	}
	if err != nil && errors.Is(context.Cause(ctx), errNoProgress) {
		return errNoProgress
	}
	return err
}

func (w *watched) drain(stream io.Reader, alive func()) error {
	buffer := make([]byte, 64<<10)
	for {
		n, err := stream.Read(buffer)
		if n > 0 {
			alive()
			w.hash.Hash().Write(buffer[:n])
			if _, err := w.file.Write(buffer[:n]); err != nil {
				return err
			}
			w.bytes += int64(n)
			w.progress(backends.Progress{Received: w.bytes})
		}
		switch {
		case w.want.Size >= 0 && w.bytes > w.want.Size:
			return fmt.Errorf("the registry sends more than the manifest's %d bytes", w.want.Size)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

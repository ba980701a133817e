package images

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
)

// blob is the uncompressed stream of a layer. It ends with its context, and it
// fails at its end when the content is not the layer's DiffID.
type blob struct {
	ctx     context.Context
	plain   io.Reader
	closers []func()
	hash    digest.Digester
	layer   backends.Layer
	size    int64 // of the blob as served
	ended   bool
	failed  error
	spoiled func() // forgets the cached file
}

// openBlob opens the cached blob, or the content of the same layer elsewhere
// in the store.
func (s *Store) openBlob(ctx context.Context, l backends.Layer) (*blob, error) {
	path, temporary := s.blobPath(l.Digest), false
	if !s.cached(l) {
		var err error
		if path, err = s.copyStored(ctx, l); err != nil {
			return nil, err
		}
		temporary = true
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b := &blob{ctx: ctx, hash: digest.SHA256.Digester(), layer: l, size: l.Size, spoiled: func() { _ = os.Remove(path) }}
	b.closers = append(b.closers, func() { file.Close() })
	if temporary {
		b.closers = append(b.closers, b.spoiled)
	} else if info, err := file.Stat(); err == nil {
		b.size = info.Size()
	}
	packed := io.Reader(file)
	if !temporary {
		packed, err = s.decrypted(l, file)
	}
	var plain io.ReadCloser
	if err == nil {
		plain, _, err = compression.AutoDecompress(packed)
	}
	if err != nil {
		b.spoiled()
		b.Close()
		return nil, messages.Errorf(messages.Internal, "layer %s cannot be decompressed: %w", l.Digest, err)
	}
	b.plain = plain
	b.closers = append(b.closers, func() { plain.Close() })
	return b, nil
}

// copyStored writes a layer of the store to a file: the store holds its lock
// while a layer is read, and making one needs the same lock.
func (s *Store) copyStored(ctx context.Context, l backends.Layer) (path string, err error) {
	id := s.stored(l)
	if id == "" {
		return "", messages.Errorf(messages.Unavailable, "layer %s went away while its image was being committed; pull again", l.Digest)
	}
	none := archive.Uncompressed
	diff, err := s.store.Diff("", id, &storage.DiffOptions{Compression: &none})
	if err != nil {
		return "", fmt.Errorf("reading layer %s: %w", id, err)
	}
	defer diff.Close()
	file, err := os.CreateTemp(s.cfg.BlobDir, "copy-*"+partialSuffix)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := io.Copy(file, withContext{ctx, diff}); err != nil {
		_ = os.Remove(file.Name())
		return "", fmt.Errorf("copying layer %s: %w", id, err)
	}
	return file.Name(), nil
}

// Read gives the stream and keeps count of its digest.
func (b *blob) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	if err := b.ctx.Err(); err != nil {
		b.failed = fmt.Errorf("unpacking layer %s: %w", b.layer.Digest, err)
		return 0, b.failed
	}
	n, err := b.plain.Read(p)
	b.hash.Hash().Write(p[:n])
	switch {
	case err == io.EOF:
		b.ended = true
		if got := b.hash.Digest().String(); got != b.layer.DiffID {
			b.spoiled()
			b.failed = messages.Errorf(messages.Internal, "layer %s: its content is not what the image's configuration says: want %s, got %s", b.layer.Digest, b.layer.DiffID, got)
			return n, b.failed
		}
	case err != nil:
		b.spoiled()
		b.failed = messages.Errorf(messages.Internal, "layer %s cannot be decompressed: %w", b.layer.Digest, err)
		return n, b.failed
	}
	return n, err
}

// verifyAll reads what is left.
func (b *blob) verifyAll() error {
	if !b.ended && b.failed == nil {
		_, _ = io.Copy(io.Discard, b) // its error is b.failed
	}
	return b.failed
}

// Close closes the stream and its file, the last opened first.
func (b *blob) Close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// withContext is a reader that ends with its context.
type withContext struct {
	ctx context.Context
	io.Reader
}

func (r withContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

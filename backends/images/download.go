package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/chunked"
)

var errNoProgress = errors.New("no byte has come")

// A download that brings nothing is tried so many times, with pauses that
// double: about twelve seconds for a registry that restarts. After any byte the
// count begins anew; a download that stands still ends by PullProgressTimeout.
const (
	downloadTries = 6
	firstPause    = 200 * time.Millisecond
	longestPause  = 10 * time.Second
)

// blobFile is a blob on its way to the disk. One goroutine writes it, others
// follow it with readers of their own.
type blobFile struct {
	file *os.File
	path string

	mu    sync.Mutex
	grown *sync.Cond
	size  int64 // bytes that are there
	begun int   // how often it has begun from nothing: what followers have read before is void
	whole bool  // there is no more to come, and the digest was right
	err   error // or it will never be
}

// openBlob opens the blob's file with what an earlier try, maybe of an earlier
// daemon, has left in it.
func (s *Store) openBlob(l backends.Layer) (*blobFile, error) {
	path := s.blobPath(l.Digest) + partialSuffix
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	b := &blobFile{file: file, path: path}
	b.grown = sync.NewCond(&b.mu)
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	if b.size = info.Size(); l.Size >= 0 && b.size > l.Size {
		err = b.restart()
	}
	if err != nil {
		file.Close()
	}
	return b, err
}

// Write appends and lets the followers go on.
func (b *blobFile) Write(p []byte) (int, error) {
	n, err := b.file.WriteAt(p, b.size) // only the writer changes size
	b.mu.Lock()
	b.size += int64(n)
	b.mu.Unlock()
	b.grown.Broadcast()
	return n, err
}

// restart forgets the content: it was not the blob's.
func (b *blobFile) restart() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size = 0
	b.begun++
	b.grown.Broadcast()
	return b.file.Truncate(0)
}

// follow reads it from the start.
func (b *blobFile) follow(p *slot) *follower {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &follower{blob: b, begun: b.begun, slot: p}
}

// verdict waits for the end. It says whether what the follower has read was
// the blob.
func (b *blobFile) verdict(f *follower) (right bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.whole && b.err == nil {
		b.grown.Wait()
	}
	return b.begun == f.begun, b.err
}

// end says that there is no more to come.
func (b *blobFile) end(err error) {
	b.mu.Lock()
	b.whole, b.err = err == nil, err
	b.mu.Unlock()
	b.grown.Broadcast()
}

// follower reads a blobFile from its start while it grows. Its end is reached
// only when the digest was right.
type follower struct {
	blob   *blobFile
	begun  int
	at     int64
	slot   *slot // given back while there is nothing to read
	closed bool  // nobody reads any more
}

var errBegunAnew = errors.New("the download has begun anew")

// starved says whether there is nothing to read yet. With blob.mu held.
func (f *follower) starved() bool {
	b := f.blob
	return f.at == b.size && b.begun == f.begun && !b.whole && b.err == nil && !f.closed
}

// close ends a Read that waits, and those to come.
func (f *follower) close() {
	f.blob.mu.Lock()
	f.closed = true
	f.blob.mu.Unlock()
	f.blob.grown.Broadcast()
}

// Read implements io.Reader.
func (f *follower) Read(p []byte) (int, error) {
	b := f.blob
	b.mu.Lock()
	if f.starved() {
		f.slot.leave()
		for f.starved() {
			b.grown.Wait()
		}
		err := f.ended()
		b.mu.Unlock()
		if err != nil { // a place would be for nothing
			return 0, err
		}
		if err := f.slot.enter(); err != nil {
			return 0, err
		}
		b.mu.Lock()
	}
	size, err := b.size, f.ended()
	b.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case f.at == size:
		return 0, io.EOF
	}
	n, err := b.file.ReadAt(p[:min(int64(len(p)), size-f.at)], f.at)
	f.at += int64(n)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// ended says why there is nothing to read any more. With blob.mu held.
func (f *follower) ended() error {
	switch {
	case f.closed:
		return os.ErrClosed
	case f.blob.begun != f.begun:
		return errBegunAnew
	}
	return f.blob.err
}

// download is one blob on its way from a registry.
type download struct {
	source   types.ImageSource
	layer    backends.Layer
	blob     *blobFile
	limit    time.Duration // without a byte; 0: for ever
	progress *meter
	hash     digest.Digester
}

// run brings what is missing and verifies the whole.
func (d *download) run(ctx context.Context) error {
	resumed := d.blob.size > 0
	err := d.bring(ctx)
	if errors.Is(err, errWrongBytes) && (elsewhere(d.source, err) || resumed) {
		// The mirror may be to blame, what was there before, or a registry that
		// does not do as its answer to a Range says: once more, from the start.
		if err = d.blob.restart(); err == nil {
			err = d.bring(ctx)
		}
	}
	return err
}

var errWrongBytes = errors.New("wrong digest")

func (d *download) bring(ctx context.Context) error {
	d.hash = digest.SHA256.Digester()
	if _, err := io.Copy(d.hash.Hash(), io.NewSectionReader(d.blob.file, 0, d.blob.size)); err != nil {
		return err
	}
	d.progress.received(d.blob.size)
	if err := d.loop(ctx); err != nil {
		return err
	}
	if got := d.hash.Digest(); got.String() != d.layer.Digest {
		return fmt.Errorf("%w: want %s, the registry served %s", errWrongBytes, d.layer.Digest, got)
	}
	return nil
}

// loop goes on where a connection was cut.
func (d *download) loop(ctx context.Context) error {
	pause := firstPause
	for try := 1; d.layer.Size < 0 || d.blob.size < d.layer.Size; try++ {
		before := d.blob.size
		err := d.connection(ctx)
		if err == nil {
			d.progress.trouble("")
			return nil
		}
		if d.blob.size > before {
			try, pause = 1, firstPause
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, errTooLong), isFull(err):
			return err
		case (try >= downloadTries || registryKind(ctx, err) != messages.RegistryUnavailable) && elsewhere(d.source, err):
			try, pause = 0, firstPause // this place is of no use; what is here is the same everywhere
		case errors.Is(err, errNoProgress):
			return err
		case registryKind(ctx, err) != messages.RegistryUnavailable:
			return err
		case try >= downloadTries:
			return fmt.Errorf("given up after %d tries without a byte: %w", try, err)
		}
		d.progress.trouble(err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
	return nil
}

// connection brings what one connection gives; nil: it gave all.
func (d *download) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := func() {}
	if d.limit > 0 {
		timer := time.AfterFunc(d.limit, func() { cancel(errNoProgress) })
		defer timer.Stop()
		alive = func() { timer.Reset(d.limit) }
	}
	stream, err := d.open(ctx)
	if err == nil {
		err = d.drain(stream, alive)
		cancel(nil) // before Close, which would read what is left
		stream.Close()
	}
	if err != nil && errors.Is(context.Cause(ctx), errNoProgress) {
		return errNoProgress
	}
	return err
}

func (d *download) open(ctx context.Context) (io.ReadCloser, error) {
	info := infoOf(d.layer)
	if d.blob.size > 0 {
		// Some registries call a Range an error (400, 416, 501): those are read
		// from the start. What says that the blob cannot be had now stands.
		stream, err, can := rest(ctx, d.source, info, d.blob.size)
		if can && (err == nil || ctx.Err() != nil || !unranged(err)) {
			return stream, err
		}
	}
	stream, _, err := d.source.GetBlob(ctx, info, none.NoCache)
	if err == nil && d.blob.size > 0 {
		_, err = io.CopyN(io.Discard, stream, d.blob.size)
	}
	return stream, err
}

func unranged(err error) bool {
	status := httpStatus(err)
	return errors.As(err, &chunked.ErrBadRequest{}) || status == http.StatusNotImplemented ||
		status == http.StatusBadRequest || status == http.StatusRequestedRangeNotSatisfiable
}

// infoOf names a layer's blob to the library.
func infoOf(l backends.Layer) types.BlobInfo {
	return types.BlobInfo{Digest: digest.Digest(l.Digest), Size: l.Size, MediaType: l.MediaType}
}

var errTooLong = errors.New("the registry sends more than the manifest says")

func (d *download) drain(stream io.Reader, alive func()) error {
	buffer := make([]byte, 256<<10)
	for {
		n, err := stream.Read(buffer)
		if n > 0 {
			alive()
			d.hash.Hash().Write(buffer[:n])
			if _, err := d.blob.Write(buffer[:n]); err != nil {
				return err
			}
			d.progress.received(d.blob.size)
		}
		switch {
		case d.layer.Size >= 0 && d.blob.size > d.layer.Size:
			return fmt.Errorf("%w (%d bytes)", errTooLong, d.layer.Size)
		case err == io.EOF && d.blob.size < d.layer.Size:
			return fmt.Errorf("the connection ended after %d of %d bytes: %w", d.blob.size, d.layer.Size, io.ErrUnexpectedEOF)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// meter tells a caller how far a layer is. Its figures come from two goroutines.
type meter struct {
	mu   sync.Mutex
	now  backends.Progress
	tell func(backends.Progress)
}

func (m *meter) change(f func(*backends.Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.now)
	if m.tell != nil {
		m.tell(m.now)
	}
}

func (m *meter) received(n int64)   { m.change(func(p *backends.Progress) { p.Received = n }) }
func (m *meter) unpacked(n int64)   { m.change(func(p *backends.Progress) { p.Unpacked = n }) }
func (m *meter) trouble(why string) { m.change(func(p *backends.Progress) { p.Trouble = why }) }

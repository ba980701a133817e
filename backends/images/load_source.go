package images

import (
	"context"
	"io"
	"sync"
	"time"

	"go.podman.io/image/v5/types"
)

// idleLimit is how long an archive stays open when nobody reads from it. A pull
// can end anywhere (its caller goes, a layer fails), so its end is not what
// closes the archive, only what usually does it sooner.
const idleLimit = 30 * time.Second

// idleSource is an archive for the layers of one image. What the library has
// unpacked of it goes when it is idle, and is made again for who comes later.
// Everything but blobs is read before, from the source inside.
//
// GetBlob is called at once for several layers, though some of the library's
// archives do not promise that it may be: all of them only open a file.
type idleSource struct {
	types.ImageSource
	name   string
	reopen func(context.Context) (opened, error)
	limit  time.Duration

	mu    sync.Mutex
	now   *opened // nil: closed
	users int
	timer *time.Timer
}

func newIdleSource(first opened, name string, reopen func(context.Context) (opened, error)) *idleSource {
	s := &idleSource{ImageSource: first, name: name, reopen: reopen, limit: idleLimit, now: &first}
	s.timer = time.AfterFunc(s.limit, func() { _ = s.Close() })
	return s
}

// GetBlob implements types.ImageSource.
func (s *idleSource) GetBlob(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error) {
	source, err := s.use(ctx)
	if err != nil {
		return nil, 0, sourceError(ctx, err, s.name)
	}
	stream, size, err := source.GetBlob(ctx, info, cache)
	if err != nil {
		s.leave()
		return nil, 0, sourceError(ctx, err, s.name)
	}
	return &usedStream{stream, ctx, s.name, sync.OnceFunc(s.leave)}, size, nil
}

func (s *idleSource) use(ctx context.Context) (types.ImageSource, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		o, err := s.reopen(ctx)
		if err != nil {
			return nil, err
		}
		s.now = &o
	}
	s.users++
	s.timer.Stop()
	return s.now, nil
}

func (s *idleSource) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.timer.Reset(s.limit)
	}
}

// Close closes it now unless somebody reads.
func (s *idleSource) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 && s.now != nil {
		s.timer.Stop()
		s.now.close()
		s.now = nil
	}
	return nil
}

type usedStream struct {
	io.ReadCloser
	ctx   context.Context
	name  string
	leave func()
}

// Read implements io.Reader.
func (s *usedStream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = sourceError(s.ctx, err, s.name)
	}
	return n, err
}

// Close implements io.Closer.
func (s *usedStream) Close() error {
	defer s.leave()
	return s.ReadCloser.Close()
}

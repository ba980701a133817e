package images

import (
	"context"
	"io"
	"math"
	"reflect"
	"sync"
	"time"

	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/chunked"
)

// ranges asks a registry for parts of a blob. The library's source can do that
// (with its credentials, its mirrors and its answers to registries that ignore
// Range), but the type of the argument is internal to it, so the method is
// found by its name. A test holds that it is there.
type ranges struct {
	ctx    context.Context
	source types.ImageSource
	info   types.BlobInfo
	seen   func(int64)      // told of bytes as they come; may be nil
	packed map[uint64]int64 // offsets of parts that are unpacked, and how much they may become

	// While an answer is awaited or read, stalled is called when no byte comes
	// for limit; 0: never.
	limit   time.Duration
	stalled func()
}

// can says whether the source gives parts.
func (r *ranges) can() bool { return r.method().IsValid() }

func (r *ranges) method() reflect.Value {
	return reflect.ValueOf(underlying(r.ctx, r.source)).MethodByName("GetBlobAt")
}

// GetBlobAt implements chunked.ImageSourceSeekable.
func (r *ranges) GetBlobAt(chunks []chunked.ImageSourceChunk) (chan io.ReadCloser, chan error, error) {
	answered := r.awaited()
	method := r.method()
	list := reflect.MakeSlice(method.Type().In(2), 0, len(chunks))
	for _, c := range chunks {
		list = reflect.Append(list, reflect.ValueOf(c).Convert(list.Type().Elem()))
	}
	out := method.Call([]reflect.Value{reflect.ValueOf(r.ctx), reflect.ValueOf(r.info), list})
	answered()
	if err, _ := out[2].Interface().(error); err != nil {
		if reflect.TypeOf(err).Name() == "BadPartialRequestError" {
			err = chunked.ErrBadRequest{}
		}
		return nil, nil, err
	}
	streams, errs := out[0].Interface().(chan io.ReadCloser), out[1].Interface().(chan error)
	if r.seen == nil {
		return streams, errs, nil
	}
	watched, told := make(chan io.ReadCloser), make(chan error)
	go r.pass(chunks, streams, errs, watched, told)
	return watched, told, nil
}

// pass hands parts and errors on. The library looks for the next part only when
// the last was closed, and takes the end of the errors for the end of all: the
// source's can end while a part is still in our hands.
func (r *ranges) pass(chunks []chunked.ImageSourceChunk, from chan io.ReadCloser, errs chan error, to chan io.ReadCloser, told chan error) {
	defer close(told)
	defer close(to)
	for i := 0; from != nil || errs != nil; {
		came := r.awaited()
		select {
		case stream, open := <-from:
			came()
			if !open {
				from = nil
				continue
			}
			s := &watchedStream{ReadCloser: stream, of: r, closed: make(chan struct{})}
			select {
			case to <- r.bound(s, chunks, i):
				i++
			case <-r.ctx.Done():
				_ = s.Close() // nobody takes it any more
				continue
			}
			select {
			case <-s.closed:
			case <-r.ctx.Done():
			}
		case err, open := <-errs:
			came()
			if !open {
				errs = nil
				continue
			}
			select {
			case told <- err:
			case <-r.ctx.Done():
			}
		}
	}
}

// bound is the part with the bound that its place in the layer gives it.
func (r *ranges) bound(s *watchedStream, chunks []chunked.ImageSourceChunk, i int) io.ReadCloser {
	if i >= len(chunks) || r.packed[chunks[i].Offset] <= 0 {
		return s
	}
	return struct {
		io.Reader
		io.Closer
	}{bounded(s, chunks[i].Length, r.packed[chunks[i].Offset]), s}
}

// awaited watches one wait for the registry. What is done with the bytes
// between two of them may take its time.
func (r *ranges) awaited() (over func()) {
	if r.limit <= 0 || r.stalled == nil {
		return func() {}
	}
	timer := time.AfterFunc(r.limit, r.stalled)
	return func() { timer.Stop() }
}

type watchedStream struct {
	io.ReadCloser
	of     *ranges
	once   sync.Once
	closed chan struct{}
}

// Read implements io.Reader.
func (w *watchedStream) Read(p []byte) (int, error) {
	came := w.of.awaited()
	n, err := w.ReadCloser.Read(p)
	came()
	w.of.seen(int64(n))
	return n, err
}

// Close implements io.Closer.
func (w *watchedStream) Close() error {
	defer w.once.Do(func() { close(w.closed) })
	return w.ReadCloser.Close()
}

// rest opens a blob from an offset on; can is false when the source gives no parts.
func rest(ctx context.Context, source types.ImageSource, info types.BlobInfo, offset int64) (stream io.ReadCloser, err error, can bool) { //nolint:staticcheck // can says whether to look at the others
	r := &ranges{ctx: ctx, source: source, info: info}
	if !r.can() {
		return nil, nil, false
	}
	streams, errs, err := r.GetBlobAt([]chunked.ImageSourceChunk{{Offset: uint64(offset), Length: math.MaxUint64}})
	if err != nil {
		return nil, err, true
	}
	for streams != nil || errs != nil {
		select {
		case stream, open := <-streams:
			if open {
				return &onlyStream{stream, streams, errs}, nil, true
			}
			streams = nil
		case err, open := <-errs:
			if open {
				return nil, err, true
			}
			errs = nil
		}
	}
	return nil, io.ErrUnexpectedEOF, true
}

// onlyStream lets the library's goroutine end when its stream is closed.
type onlyStream struct {
	io.ReadCloser
	streams chan io.ReadCloser
	errs    chan error
}

// Close implements io.Closer.
func (s *onlyStream) Close() error {
	err := s.ReadCloser.Close()
	go func() {
		for range s.errs { //nolint:revive // drained
		}
	}()
	go func() {
		for extra := range s.streams {
			extra.Close()
		}
	}()
	return err
}

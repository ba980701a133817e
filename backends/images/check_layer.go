package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// layerPlace is where a layer's content is.
type layerPlace struct {
	diff  string // the directory its files are in
	split string // the tar headers its files were unpacked by, and checksums
}

func placeIn(graphRoot, id string) layerPlace {
	return layerPlace{
		diff:  filepath.Join(graphRoot, "overlay", id, "diff"),
		split: filepath.Join(graphRoot, "overlay-layers", id+".tar-split.gz"),
	}
}

// damaged is an error that says what is wrong with a layer, unlike one that
// kept us from looking.
type damaged struct{ error }

// verify puts the layer's archive together again, from its files and what
// tar-split has kept, and compares it with the digest it was recorded by; on
// the way each header is compared with the file made from it, and in the end
// the directory must hold nothing else. The store is not asked and no lock of
// it is held (its own Diff keeps all others from writing meanwhile): what
// changes under our eyes is for the caller to find out.
func (p layerPlace) verify(ctx context.Context, want digest.Digest, metadata bool) error {
	root, err := unix.Open(p.diff, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return classify(ctx, fmt.Errorf("its directory: %w", err))
	}
	defer unix.Close(root)
	split, err := os.Open(p.split)
	if err != nil {
		return classify(ctx, fmt.Errorf("its tar-split file, without which nothing can be verified: %w", err))
	}
	defer split.Close()
	sum := want.Algorithm().Hash()
	length := &counter{to: sum}
	headers, stream := io.Pipe()
	seen := newSurvey(root, metadata)
	compared := make(chan error, 1)
	go atLeisure(func() {
		err := seen.compare(headers)
		headers.CloseWithError(err) // ends the assembling too
		compared <- err
	})
	assembled := make(chan error, 1)
	go atLeisure(func() {
		err := assemble(ctx, split, contents{ctx: ctx, root: root}, length, stream)
		stream.CloseWithError(err)
		assembled <- err
	})
	err = <-assembled
	if differs := <-compared; differs != nil {
		err = differs
	}
	if err != nil {
		return classify(ctx, err)
	}
	// tar-split does not give sparse files back as they were, nor an archive
	// that ends within a block: of these the checksum of each file has to do.
	faithful := !seen.cut && length.bytes%512 == 0
	if got := digest.NewDigest(want.Algorithm(), sum); got != want && faithful {
		return damaged{fmt.Errorf("its content has the digest %s, want %s", got, want)}
	}
	return classify(ctx, seen.strangers(ctx, p.diff))
}

func assemble(ctx context.Context, split io.Reader, files contents, sum, stream io.Writer) error {
	plain, err := gzip.NewReader(bufio.NewReader(split))
	if err != nil {
		return fmt.Errorf("its tar-split file: %w", err)
	}
	defer plain.Close()
	entries := splitFile{tarsplit.NewJSONUnpacker(plain)}
	if err := asm.WriteOutputTarStream(files, entries, io.MultiWriter(sum, stream)); err != nil {
		return err
	}
	return ctx.Err()
}

// splitFile says of its errors that they are tar-split's, not a file's.
type splitFile struct{ tarsplit.Unpacker }

func (f splitFile) Next() (*tarsplit.Entry, error) {
	e, err := f.Unpacker.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("its tar-split file: %w", err)
	}
	return e, err
}

// classify tells damage from what may go away by itself.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EPERM, unix.EACCES, unix.EINTR, unix.ENOSYS} {
		if errors.Is(err, passing) {
			return err
		}
	}
	return damaged{err}
}

// atLeisure runs f on a thread that takes disk and cores only when nobody else
// wants them. The thread ends with f: no other goroutine inherits that.
func atLeisure(f func()) {
	runtime.LockOSThread()
	const whoProcess, classIdle = 1, 3 << 13 // ioprio_set(2); the library has no names for it
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	f()
}

// contents opens the files of a layer by their names in the archive. A link in
// a name is followed as it was when the layer was unpacked: with the layer as "/".
type contents struct {
	ctx  context.Context
	root int
}

// Get implements tar-split's FileGetter.
func (c contents) Get(name string) (io.ReadCloser, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	// Never wait for a FIFO in a file's place.
	fd, err := openInLayer(c.root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s is not a regular file any more", name)
	}
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_NOREUSE) // a kernel without it caches more of it
	return struct {
		io.Reader
		io.Closer
	}{withContext{c.ctx, file}, file}, nil
}

func openInLayer(root int, name string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(root, name, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// compare reads the archive's headers and looks at the file of each. What our
// reader of archives cannot read has no headers to compare; its digest counts.
func (v *survey) compare(archive io.Reader) error {
	for headers := tar.NewReader(archive); ; {
		header, err := headers.Next()
		if err == nil {
			if failed := v.look(header); failed != nil {
				return fmt.Errorf("%s: %w", header.Name, failed)
			}
		}
		// What follows a sparse file is not where its header says: tar-split gives
		// it back as it reads.
		v.cut = err != nil && !errors.Is(err, io.EOF) || err == nil && isSparse(header)
		if err != nil || v.cut {
			_, err = io.Copy(io.Discard, archive) // to its end, which is behind the last header
			return err
		}
	}
}

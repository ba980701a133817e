package images

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/image/v5/pkg/compression"
	"golang.org/x/sys/unix"
)

const (
	// filterFrom is the size of a gzip blob from which a process pays for itself.
	filterFrom = 1 << 20
	// windowLimit bounds what a zstd stream may make the decoder keep in
	// memory: zstd's own tools need --long above this.
	windowLimit = 128 << 20
	pipeSize    = 1 << 20
	nobody      = 65534
)

// igzip is the filter of the ISA-L library (Debian package isal): on this
// project's machine 820 MB/s of output where klauspost's gzip gives 320 and the
// standard library 248. "" where it is not installed.
var igzip = sync.OnceValue(func() string {
	path, err := exec.LookPath("igzip")
	if err != nil {
		return ""
	}
	return path
})

var gzipMagic, zstdMagic, xzMagic = []byte{0x1f, 0x8b}, []byte{0x28, 0xb5, 0x2f, 0xfd}, []byte("\xfd7zXZ\x00")

// decompress gives the plain stream of a blob. With fast it is a filter process
// that does the work; what it gives is verified by the caller, as is all the rest.
func decompress(blob io.Reader, fast bool) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(blob, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic) && fast:
		return startFilter(buffered)
	case bytes.HasPrefix(magic, gzipMagic):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, zstdMagic):
		return zstdReader(buffered)
	}
	if head, _ := buffered.Peek(len(xzMagic)); bytes.Equal(head, xzMagic) {
		// Its decoder takes at once what the header names as the dictionary, up
		// to 4 GiB, and no type of layer stands for xz.
		return nil, messages.Errorf(messages.Precondition, "it is compressed with xz: push the image again with gzip or zstd")
	}
	plain, _, err := compression.AutoDecompress(buffered) // bzip2 of old, or nothing
	return plain, err
}

// zstdDecoders are those not in use. One has some ten megabytes of buffers for
// the usual window of 8 MiB: made anew for each layer they were most of the
// daemon's memory during a pull.
var zstdDecoders sync.Pool

type pooledDecoder struct{ *zstd.Decoder }

func zstdReader(blob io.Reader) (io.ReadCloser, error) {
	decoder, _ := zstdDecoders.Get().(*zstd.Decoder)
	if decoder == nil {
		var err error
		decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowLimit))
		if err != nil {
			return nil, err
		}
	}
	return pooledDecoder{decoder}, decoder.Reset(blob)
}

// Close implements io.Closer.
func (d pooledDecoder) Close() error {
	err := d.Reset(nil)
	zstdDecoders.Put(d.Decoder)
	return err
}

func useFilter(size int64) bool { return igzip() != "" && (size < 0 || size >= filterFrom) }

// filter is a running igzip.
type filter struct {
	cmd    *exec.Cmd
	out    *os.File
	errors bytes.Buffer
}

// startFilter runs igzip on a stranger's bytes: as nobody, with nothing but its
// two pipes, and it ends when we die, since both break. (A parent-death signal
// would come when the thread ends that has started it, and threads that unpack
// do end.)
func startFilter(blob io.Reader) (io.ReadCloser, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, _ = unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, pipeSize) // only for speed
	f := &filter{cmd: exec.Command(igzip(), "-d", "-c"), out: out}
	f.cmd.Stdin, f.cmd.Stdout, f.cmd.Stderr = blob, in, &f.errors
	f.cmd.Env, f.cmd.Dir = []string{}, "/"
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		f.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	err = f.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("starting %s: %w", igzip(), err)
	}
	return f, nil
}

// Read implements io.Reader: its end is an error when the filter has failed.
func (f *filter) Read(p []byte) (int, error) {
	n, err := f.out.Read(p)
	if err != io.EOF || f.cmd.ProcessState != nil {
		return n, err
	}
	if failed := f.cmd.Wait(); failed != nil {
		return n, fmt.Errorf("igzip: %w: %s", failed, bytes.TrimSpace(f.errors.Bytes()))
	}
	return n, io.EOF
}

// Close implements io.Closer.
func (f *filter) Close() error {
	err := f.out.Close()
	if f.cmd.ProcessState == nil {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
	}
	return err
}

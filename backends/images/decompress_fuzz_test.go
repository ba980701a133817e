package images

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/troupe-run/troupe/messages"
)

// FuzzDecompress reads blobs a stranger wrote. Nothing ends the daemon, and no
// header makes it take memory that the content is not worth.
func FuzzDecompress(f *testing.F) {
	var zipped, zstandard bytes.Buffer
	w := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&zstandard)
	if err != nil {
		f.Fatal(err)
	}
	for _, w := range []io.WriteCloser{w, z} {
		if _, err := io.WriteString(w, strings.Repeat("layer", 1000)); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(zipped.Bytes())
	f.Add(append(zipped.Bytes(), zipped.Bytes()...))
	f.Add(zstandard.Bytes())
	f.Add(append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, zstandard.Bytes()...))
	f.Add([]byte("\x1f\x8b"))
	f.Add([]byte("BZh91AY&SY"))
	f.Add(xzOf(40))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, blob []byte) {
		inTime(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		plain, err := decompress(bytes.NewReader(blob), false)
		if err == nil {
			_, err = io.CopyN(io.Discard, plain, 4<<20)
			plain.Close()
		}
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 2*windowLimit {
			t.Fatalf("%d bytes of memory for a blob of %d (%v)", taken, len(blob), err)
		}
	})
}

// xzOf is the beginning of an xz stream with a dictionary: 40 is of 4 GiB.
func xzOf(dictionary byte) []byte {
	head := append([]byte("\xfd7zXZ\x00"), withCRC([]byte{0, 1})...) // with CRC-32 checks
	block := []byte{2, 0, 0x21, 1, dictionary, 0, 0, 0}
	return append(append(head, withCRC(block)...), 1, 0, 0, 'x')
}

// The library would take 4 GiB for these 28 bytes.
func TestAnXZLayerIsRefused(t *testing.T) {
	_, err := decompress(bytes.NewReader(xzOf(40)), false)
	wantRefused(t, err, messages.Precondition, "xz", "gzip or zstd")
}

func TestAWindowThatIsTooLargeIsRefused(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (28 - 10) << 3, 1, 0, 0} // a window of 256 MiB, an empty last block
	plain, err := decompress(bytes.NewReader(frame), false)
	ok(t, err)
	defer plain.Close()
	if _, err := io.ReadAll(plain); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a zstd window of 256 MiB: %v", err)
	}
}

package images

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The pieces of tars that archive/tar does not write.

func digits(n int) string { return strconv.Itoa(n) }

// block is a header that says size and the body that follows it.
func block(kind byte, name string, size int64, body string) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000001\x00        ", size))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	h = append(h, body...)
	return append(h, make([]byte, (512-len(body)%512)%512)...)
}

// paxBlock is a PAX header with pairs of key and value.
func paxBlock(pairs ...string) []byte {
	var text strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		body := " " + pairs[i] + "=" + pairs[i+1] + "\n"
		length := len(body) + 1
		for len(digits(length))+len(body) != length {
			length++
		}
		text.WriteString(digits(length) + body)
	}
	return block('x', "pax", int64(text.Len()), text.String())
}

// sparseTar has one file in GNU tar's sparse format 1.0: its map begins its
// content.
func sparseTar(name, size, sparse, content string) []byte {
	if sparse == "0\n" {
		sparse = "1\n" + size + "\n0\n"
	}
	body := sparse + strings.Repeat("\x00", 512-len(sparse)) + content
	head := paxBlock("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", name, "GNU.sparse.realsize", size)
	head = append(head, block('0', "GNUSparseFile.0/"+name, int64(len(body)), body)...)
	return append(head, make([]byte, 1024)...)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// watchFree gives the least that a file system had free while it was watched.
func watchFree(t *testing.T, dir string) (least func() int64) {
	t.Helper()
	stop, lowest := make(chan struct{}), int64(1)<<62
	var done sync.WaitGroup
	done.Go(func() {
		for {
			if free, err := freeBytes(dir); err == nil {
				lowest = min(lowest, int64(free))
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	return func() int64 {
		close(stop)
		done.Wait()
		return lowest
	}
}

func peakKiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	ok(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	ok(t, err)
	return kib
}

// withCRC is what xz has after its headers.
func withCRC(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }

package images

import (
	"archive/tar"
	"fmt"
	"testing"

	"github.com/troupe-run/troupe/messages"
)

// oldSparseTar has one file in GNU tar's first sparse format: a hole of size
// bytes, which stands in the header alone.
func oldSparseTar(name string, size int64) []byte {
	h := block(tar.TypeGNUSparse, name, 0, "")
	copy(h[257:], "ustar  \x00")
	h[483] = 0x80 // base 256
	for i := range 8 {
		h[494-i] = byte(size >> (8 * i))
	}
	summed(h)
	return append(h, make([]byte, 1024)...)
}

// summed puts the checksum of a header into it.
func summed(h []byte) {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func TestAHoleOfAKindThatNobodyUnpacksIsRefusedAtOnce(t *testing.T) {
	n := newHostileNode(t)
	const paxSize = 1024 // before the header of sparseTar's file
	otherKind := sparseTar("hole", "4611686018427387904", "0\n", "")
	otherKind[paxSize+156] = tar.TypeCont
	summed(otherKind[paxSize : paxSize+512])
	for _, plain := range [][]byte{oldSparseTar("hole", 1<<20), oldSparseTar("hole", 1<<62), otherKind} {
		_, err := n.pull(t, zipped(t, plain))
		wantRefused(t, err, messages.Precondition, "hole", "sparse")
	}
}

package images

import (
	"io"
	"maps"
	"os"
	"slices"
	"sync/atomic"

	"github.com/klauspost/readahead"
	"github.com/opencontainers/go-digest"
)

// unpacked is what is learnt about a layer while it is unpacked.
type unpacked struct {
	DiffID   digest.Digest
	Size     int64 // of the uncompressed stream
	Files    uint64
	UIDs     []uint32
	GIDs     []uint32
	RootMode *os.FileMode // of the layer's own entry for its root, if it has one
}

// unpack puts the content of a tar stream into the empty directory dir. All the
// stream is read and hashed, also what follows the archive's end. seen is told
// how far it is.
func unpack(stream *inspector, dir string, seen func(int64)) (unpacked, error) {
	hash := digest.SHA256.Digester()
	count := &counter{to: hash.Hash(), seen: seen}
	// The unpacking thread is woken by the system each time it has waited: few
	// large pieces, some ahead.
	source := &stoppable{Reader: io.TeeReader(stream, count)}
	ahead, err := readahead.NewReaderSize(source, aheadPieces, aheadSize)
	if err != nil {
		return unpacked{}, err
	}
	err = extract(dir, ahead)
	if err == nil {
		// Padding belongs to the digest. By Read: the WriteTo of readahead calls
		// it an error when there is no more.
		_, err = io.Copy(io.Discard, struct{ io.Reader }{ahead})
	}
	source.stopped.Store(true) // else Close waits until all pieces are full
	ahead.Close()
	return unpacked{
		DiffID: hash.Digest(), Size: count.bytes, Files: uint64(stream.entries),
		UIDs: slices.Sorted(maps.Keys(stream.uids)), GIDs: slices.Sorted(maps.Keys(stream.gids)), RootMode: stream.root,
	}, err
}

const aheadPieces, aheadSize = 4, 256 << 10

// stoppable is a reader that somebody else can end, at the next Read.
type stoppable struct {
	io.Reader
	stopped atomic.Bool
}

// Read implements io.Reader.
func (s *stoppable) Read(p []byte) (int, error) {
	if s.stopped.Load() {
		return 0, os.ErrClosed
	}
	return s.Reader.Read(p)
}

// counter hashes and counts a stream.
type counter struct {
	to    io.Writer
	bytes int64
	seen  func(int64)
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	if c.seen != nil {
		c.seen(c.bytes)
	}
	return c.to.Write(p)
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/readahead"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
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

// unpack puts the content of a tar stream into the empty directory dir, and
// what podman needs to make the same stream of the files again (tar-split) into
// the file split. All the stream is read and hashed, also what follows the
// archive's end. seen is told how far it is.
func unpack(stream io.Reader, dir string, split io.Writer, seen func(int64)) (unpacked, error) {
	hash := digest.SHA256.Digester()
	count := &counter{to: hash.Hash(), seen: seen}
	compressed, err := gzip.NewWriterLevel(split, gzip.BestSpeed)
	if err != nil {
		return unpacked{}, err
	}
	headers := &headerLog{Packer: tarsplit.NewJSONPacker(compressed), uids: map[uint32]bool{}, gids: map[uint32]bool{}}
	payload, done, err := asm.NewInputTarStreamWithDone(io.TeeReader(stream, count), headers, tarsplit.NewDiscardFilePutter())
	if err != nil {
		return unpacked{}, err
	}
	// The unpacking thread is woken by the system each time it has waited: few
	// large pieces, some ahead.
	ahead, err := readahead.NewReaderSize(payload, aheadPieces, aheadSize)
	if err != nil {
		return unpacked{}, err
	}
	err = extract(dir, ahead)
	if err == nil {
		_, err = io.Copy(io.Discard, ahead) // padding belongs to the digest
	}
	payload.Close()
	ahead.Close()
	if packed := <-done; err == nil {
		err = packed
	}
	if closed := compressed.Close(); err == nil {
		err = closed
	}
	return unpacked{
		DiffID: hash.Digest(), Size: count.bytes, Files: headers.files,
		UIDs: sorted(headers.uids), GIDs: sorted(headers.gids), RootMode: headers.root,
	}, err
}

const aheadPieces, aheadSize = 4, 256 << 10

// extract unpacks in a thread whose root is dir: whatever names and links a
// stranger's archive has, there is nothing else they can reach. The thread is
// not used for anything after that; it ends with its goroutine.
func extract(dir string, stream io.Reader) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- inRoot(dir, func() error {
			return archive.Unpack(stream, "/", &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat})
		})
	}()
	return <-result
}

func inRoot(dir string, work func() error) (err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unpacking below %s: unshare: %w", dir, err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("unpacking below %s: %w", dir, err)
	}
	defer unix.Close(root)
	unix.Umask(0o022) // for directories that the archive leaves out
	if err := unix.Chroot(dir); err != nil {
		return fmt.Errorf("unpacking below %s: chroot: %w", dir, err)
	}
	// The thread ends a moment after us. It must not keep dir's file system busy.
	defer func() { err = errors.Join(err, unix.Fchdir(root), unix.Chroot(".")) }()
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("unpacking below %s: %w", dir, err)
	}
	return work()
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

// headerLog looks at the headers that go by on their way to tar-split, which
// has them raw: a second parse of the whole stream would cost as much as
// hashing it.
type headerLog struct {
	tarsplit.Packer
	uids, gids map[uint32]bool
	files      uint64
	root       *os.FileMode
	segment    []byte // since the last entry
	padding    int64  // of it, that belongs to the last entry's content
}

// AddEntry implements tarsplit.Packer.
func (h *headerLog) AddEntry(e tarsplit.Entry) (int, error) {
	if e.Type == tarsplit.SegmentType {
		if len(h.segment) < headerLimit {
			h.segment = append(h.segment, e.Payload...)
		}
		return h.Packer.AddEntry(e)
	}
	h.entry(e.GetName())
	h.segment, h.padding = h.segment[:0], -e.Size&511
	return h.Packer.AddEntry(e)
}

// headerLimit bounds what is kept of one entry's headers.
const headerLimit = 1 << 20

func (h *headerLog) entry(name string) {
	h.files++
	raw := h.segment
	if h.padding > int64(len(raw)) {
		return
	}
	header, err := tar.NewReader(bytes.NewReader(raw[h.padding:])).Next()
	if err != nil {
		return // a form only tar-split knows: its owner is not listed
	}
	if strings.HasPrefix(path.Base(name), archive.WhiteoutPrefix) {
		return
	}
	h.uids[uint32(header.Uid)], h.gids[uint32(header.Gid)] = true, true
	if path.Clean("/"+name) == "/" && header.Typeflag == tar.TypeDir {
		mode := header.FileInfo().Mode()
		h.root = &mode
	}
}

func sorted(set map[uint32]bool) []uint32 {
	all := make([]uint32, 0, len(set))
	for id := range set {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

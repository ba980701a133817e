package images

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage/pkg/archive"
)

// What the tar of a layer may be. Nothing that is built by a tool comes near
// these; each is there because what unpacks a layer, or keeps its headers for
// podman, holds the thing in memory or on the node's disk.
const (
	maxHeader  = 2 << 20   // bytes of headers before one entry
	maxHeaders = 64 << 20  // bytes of headers beyond usualHeader, of all entries
	maxEntries = 2_000_000 // files, directories, links
	maxNames   = 256 << 20 // bytes of all names

	usualHeader = 4 << 10
	entryCost   = 4 << 10 // of disk, for an entry beside its content
)

// inspector passes the uncompressed tar of a layer on as it is, byte for byte,
// and ends with an error before the first header that must not be unpacked. It
// reads with the same package as the unpacking does, so that the two cannot
// see different things in the same bytes; and it holds a header back until it
// has been looked at, because an entry of a few bytes can say "8 EB of zeros".
type inspector struct {
	raw    *recorder
	tar    *tar.Reader
	spend  func(bytes int64) error
	split  *splitter
	ready  []byte // looked at, to be passed on
	zeros  []byte // where content with its holes is read into
	direct bool   // the content of the entry is what stands in the tar
	inside bool   // an entry's content is being passed on
	ended  bool   // the archive has; what follows is padding
	failed error

	entries                 int
	headers, names, padding int64
	uids, gids              map[uint32]bool // whose the entries are, whiteouts aside
	root                    *os.FileMode    // of the entry for the layer's root, if there is one
}

// inspect is the reader to unpack from. spend is told of the bytes of disk
// that the layer is about to need, and says no when there are too many. split
// gets what tar-split needs.
func inspect(plain io.Reader, split io.Writer, spend func(bytes int64) error) *inspector {
	raw := &recorder{from: plain}
	return &inspector{raw: raw, tar: tar.NewReader(raw), split: newSplitter(split), spend: spend, uids: map[uint32]bool{}, gids: map[uint32]bool{}}
}

func (i *inspector) Read(p []byte) (int, error) {
	for len(i.ready) == 0 && i.failed == nil {
		n, err := i.advance(p)
		i.failed = err
		if n > 0 {
			return n, nil
		}
	}
	if len(i.ready) == 0 {
		return 0, i.failed
	}
	n := copy(p, i.ready)
	i.ready = i.ready[n:]
	return n, nil
}

// advance makes the next bytes ready, or reads them into p at once.
func (i *inspector) advance(p []byte) (int, error) {
	switch {
	case i.ended:
		return i.pad(p)
	case i.inside:
		return i.content(p)
	}
	return 0, i.header()
}

func (i *inspector) header() error {
	i.raw.record(maxHeader)
	header, err := i.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		i.ended, i.ready = true, i.raw.recorded()
		return i.split.between(i.ready)
	case errors.Is(err, errLongHeader):
		return refuse("entry %d has headers of more than %d bytes", i.entries+1, maxHeader)
	case err != nil && i.raw.failed != nil:
		return i.raw.failed // the stream's, not the archive's
	case err != nil:
		return messages.Errorf(messages.Internal, "entry %d: %w", i.entries+1, err)
	}
	if err := i.look(header); err != nil {
		return err
	}
	i.inside, i.ready = true, i.raw.recorded()
	i.split.begin(header.Name)
	i.direct = !isSparse(header)
	return i.split.between(i.ready)
}

// entryKinds are what the storage library unpacks. It says no to others too,
// but reads their content first, and that of GNU's old sparse files can be 8 EB
// of zeros which stand in a header.
var entryKinds = []byte{
	tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink,
	tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader,
}

func (i *inspector) look(h *tar.Header) error {
	i.entries++
	i.names += int64(len(h.Name) + len(h.Linkname))
	i.headers += max(0, int64(len(i.raw.recorded()))-usualHeader)
	switch {
	case i.entries > maxEntries:
		return refuse("it has more than %d entries", maxEntries)
	case i.names > maxNames:
		return refuse("its names have more than %d bytes", maxNames)
	case i.headers > maxHeaders:
		return refuse("its headers have more than %d bytes", maxHeaders)
	case !slices.Contains(entryKinds, h.Typeflag):
		return refuse("%.256q is of type %q (an old sparse file or a tool's own), which nobody unpacks", h.Name, h.Typeflag)
	case hasKey(h, overlayMark):
		return refuse("%.256q has attributes %s*, which are overlayfs's own", h.Name, strings.TrimPrefix(overlayMark, paxAttribute))
	}
	i.note(h)
	size := int64(0) // of other entries it says nothing
	if h.Typeflag == tar.TypeReg {
		size = min(h.Size, math.MaxInt64-entryCost)
	}
	return i.spend(entryCost + size)
}

// note keeps what the store's record of the layer says.
func (i *inspector) note(h *tar.Header) {
	if strings.HasPrefix(path.Base(h.Name), archive.WhiteoutPrefix) {
		return
	}
	i.uids[uint32(h.Uid)], i.gids[uint32(h.Gid)] = true, true
	if h.Typeflag == tar.TypeDir && path.Clean("/"+h.Name) == "/" {
		mode := h.FileInfo().Mode()
		i.root = &mode
	}
}

// overlayMark begins the attributes by which overlayfs itself remembers what a
// directory or file of a layer stands for. Set by a layer, they would say that
// for it. (Those named user.overlay.* mean something only to mounts of users,
// and layers that hold such a user's store have them rightly.)
const (
	paxAttribute = archive.PaxSchilyXattr
	overlayMark  = paxAttribute + "trusted.overlay."
)

// isSparse says whether the tar has an entry's content with holes left out.
func isSparse(h *tar.Header) bool { return h.Typeflag == tar.TypeGNUSparse || hasKey(h, "GNU.sparse.") }

func hasKey(h *tar.Header, prefix string) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// content passes on what the entry holds: read by the caller's own buffer when
// the tar has it as it is, through a copy when it says where there are holes.
func (i *inspector) content(p []byte) (int, error) {
	var n int
	var err error
	if i.direct {
		i.raw.pass()
		n, err = i.tar.Read(p)
		i.split.content(p[:n])
	} else {
		i.raw.record(sparseStep + maxHeader)
		if i.zeros == nil {
			i.zeros = make([]byte, sparseStep)
		}
		var expanded int
		expanded, err = i.tar.Read(i.zeros)
		i.split.content(i.zeros[:expanded]) // as the file reads, not as the tar has it
		i.ready = i.raw.recorded()
	}
	switch {
	case errors.Is(err, io.EOF):
		i.inside = false
		return n, i.split.end()
	case err != nil && i.raw.failed != nil:
		return n, i.raw.failed
	case err != nil:
		return n, messages.Errorf(messages.Internal, "entry %d: %w", i.entries, err)
	}
	return n, nil
}

const sparseStep = 64 << 10

// pad passes on what follows the archive. Nothing of it is unpacked, but it is
// kept for podman, compressed, and it has to end.
func (i *inspector) pad(p []byte) (int, error) {
	i.raw.pass()
	n, err := i.raw.Read(p)
	if i.padding += int64(n); i.padding > maxHeaders {
		return 0, refuse("more than %d bytes follow its end", maxHeaders)
	}
	return n, cmp.Or(i.split.between(p[:n]), err)
}

// isRefused: no try brings such a layer, however it is fetched.
func isRefused(err error) bool { return messages.KindOf(err) == messages.Precondition }

func refuse(format string, args ...any) error {
	return messages.Errorf(messages.Precondition, "the layer is refused: %s", fmt.Sprintf(format, args...))
}

// recorder is the stream beneath the inspector's tar reader. It keeps what was
// read, up to a limit, so that it can be passed on.
type recorder struct {
	from   io.Reader
	kept   bytes.Buffer
	limit  int // 0: nothing is kept
	failed error
}

var errLongHeader = errors.New("the header is too long")

func (r *recorder) record(limit int) {
	r.kept.Reset()
	r.limit = limit
}

func (r *recorder) pass() { r.limit = 0 }

func (r *recorder) recorded() []byte { return r.kept.Bytes() }

func (r *recorder) Read(p []byte) (int, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	if r.limit > 0 {
		left := r.limit - r.kept.Len()
		if left == 0 {
			return 0, errLongHeader
		}
		p = p[:min(len(p), left)]
	}
	n, err := r.from.Read(p)
	if r.limit > 0 {
		r.kept.Write(p[:n])
	}
	if err != nil && err != io.EOF {
		r.failed = err
	}
	return n, err
}

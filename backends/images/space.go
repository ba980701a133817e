package images

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// ledger is what the downloads under way will still write, so that pulls that
// begin together do not each count on the same free space.
type ledger struct {
	mu      sync.Mutex
	fetches map[string]backends.Layer // by blob digest
}

// need is what something will at least take of the disk. Only what is certain
// is in it, for a pull that would have fitted must not be refused: the blob,
// and for what is unpacked from a compressed one as much again. (Measured,
// images unpack to two to four times their blobs; a few to no more than these.
// An uncompressed archive of empty files unpacks to nearly nothing.)
type need struct {
	blob, files uint64
}

// reserve makes sure that the rest of the image will fit, and takes the layer
// into the ledger until release. It is refused before a byte is fetched, with
// the numbers, when the disk cannot hold what is still to come for this image
// and for the other downloads under way.
func (s *Store) reserve(m backends.Manifest, l backends.Layer) (release func(), err error) {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	var others, mine need
	for digest, other := range s.space.fetches {
		if digest != l.Digest {
			others.add(s.rest(other, false))
		}
	}
	counted := map[string]bool{}
	for _, layer := range append([]backends.Layer{l}, m.Layers...) {
		_, underWay := s.space.fetches[layer.Digest]
		if !counted[layer.Digest] && (!underWay || layer.Digest == l.Digest) && s.stored(layer) == "" && s.ready(layer) == nil {
			mine.add(s.rest(layer, true))
		}
		counted[layer.Digest] = true
	}
	if err := s.fits(m.Ref, mine, others); err != nil {
		return nil, err
	}
	if s.space.fetches == nil {
		s.space.fetches = map[string]backends.Layer{}
	}
	s.space.fetches[l.Digest] = l
	var once sync.Once
	return func() {
		once.Do(func() {
			s.space.mu.Lock()
			defer s.space.mu.Unlock()
			delete(s.space.fetches, l.Digest)
		})
	}, nil
}

func (n *need) add(more need) {
	n.blob += more.blob
	n.files += more.files
}

// rest is what a layer will still take. The part of its blob that has come is
// on the disk already; before the download begins, nothing is unpacked, and
// later at least what has not come yet is not. Of a layer whose files may all be
// here already nothing is certain.
func (s *Store) rest(l backends.Layer, begins bool) need {
	if tocOf(l) != "" {
		return need{}
	}
	size := uint64(max(l.Size, 0))
	blob := size
	if info, err := os.Stat(s.blobPath(l.Digest) + partialSuffix); err == nil {
		blob -= min(blob, uint64(info.Size()))
	}
	n := need{blob: blob}
	switch {
	case !strings.HasSuffix(l.MediaType, "gzip") && !strings.HasSuffix(l.MediaType, "zstd"):
	case begins:
		n.files = size
	default:
		n.files = blob
	}
	return n
}

// fits compares needs with the file systems they are needed on.
func (s *Store) fits(ref string, mine, others need) error {
	same := sameFilesystem(s.cfg.BlobDir, s.imageRoot())
	if same {
		mine, others = need{files: mine.blob + mine.files}, need{files: others.blob + others.files}
	} else if err := s.room(ref, s.cfg.BlobDir, mine.blob, others.blob); err != nil {
		return err
	}
	return s.room(ref, s.imageRoot(), mine.files, others.files)
}

func (s *Store) room(ref, path string, mine, others uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return storeError(err, "free space of %s", path)
	}
	free := st.Bavail * uint64(st.Bsize)
	if mine > 0 && st.Files > 0 && st.Ffree == 0 {
		return messages.Errorf(messages.NoSpace, "image %s: %s has no inodes left: remove images or files there", ref, path)
	}
	if mine == 0 || free >= mine+others+s.cfg.MinFree {
		return nil
	}
	return messages.Errorf(messages.NoSpace, "image %s needs at least %d bytes more on %s, where %d are free%s: remove images or files there",
		ref, mine, path, free, claims(others, s.cfg.MinFree))
}

func claims(others, minFree uint64) string {
	said := ""
	if others > 0 {
		said += fmt.Sprintf(", %d of them needed by other pulls under way", others)
	}
	if minFree > 0 {
		said += fmt.Sprintf(", %d to be kept free (min_free_mib)", minFree)
	}
	return said
}

func sameFilesystem(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

package images

import (
	"fmt"
	"os"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// unpackBudget is how much of a disk unpacking may use. What a layer becomes
// is written in no manifest, and a blob of 10 MB can become 10 GB: so the disk
// itself is asked, each time a step's worth of bytes is about to be written,
// and unpacking ends before the node has nothing left. Unpackings at the same
// time see each other's bytes there. The disk is held open: who unpacks may
// have another root directory by then.
type unpackBudget struct {
	dir            *os.File
	bytes, entries int64 // since the disk was asked
}

const budgetStep = 16 << 20

func newUnpackBudget(dir string) (*unpackBudget, error) {
	opened, err := os.Open(dir)
	return &unpackBudget{dir: opened}, err
}

// Close lets go of the disk.
func (b *unpackBudget) Close() { b.dir.Close() }

// spend is told of an entry's bytes before they are written.
func (b *unpackBudget) spend(bytes int64) error {
	b.entries++
	if b.bytes += bytes; bytes < budgetStep && b.bytes < budgetStep && b.entries > 1 && b.entries < budgetStep/entryCost {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(b.dir.Fd()), &st); err != nil {
		return fmt.Errorf("free space of %s: %w", b.dir.Name(), err)
	}
	free, kept := int64(st.Bavail)*st.Bsize, reserve(int64(st.Blocks)*st.Bsize)
	if b.bytes < 0 || free-kept < b.bytes {
		return messages.Errorf(messages.NoSpace, "unpacking needs at least %d bytes more on %s, which has %d free and keeps %d for the node: %w", max(bytes, b.bytes), b.dir.Name(), free, kept, unix.ENOSPC)
	}
	// File systems that make inodes as they need them count none.
	if st.Files > 0 && int64(st.Ffree)-int64(st.Files/inodesKept) < b.entries {
		return messages.Errorf(messages.NoSpace, "unpacking needs more inodes on %s, which has %d free and keeps %d for the node: %w", b.dir.Name(), st.Ffree, st.Files/inodesKept, unix.ENOSPC)
	}
	b.bytes, b.entries = 0, 1
	return nil
}

const inodesKept = 50 // one of so many

// reserve is what unpacking leaves of a disk: a fiftieth, at most 1 GiB.
func reserve(size int64) int64 { return min(size/50, 1<<30) }

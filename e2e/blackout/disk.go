package blackout

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// Disk is a disk with a volatile write cache, as drives have one. A write is
// acknowledged when the cache has it; a flush makes all that were acknowledged
// before it durable, and so does FUA for its own write. When power is cut,
// any block that was written since may have got to the medium or not, in no
// order, and by any of the contents it had in between: that is all a drive
// promises and what a file system's barriers are made for. Keeping the cache
// here rather than in QEMU makes the cut exact: after Cut no write can get in,
// whatever a dying emulator still has in its hands.
type Disk struct {
	mu      sync.Mutex
	durable []byte
	cache   map[int64][][]byte // by block: its contents since the last flush
	off     bool
}

const block = 4096

// NewDisk is a disk with this content.
func NewDisk(content []byte) *Disk {
	return &Disk{durable: content, cache: map[int64][][]byte{}}
}

// Size is in bytes.
func (d *Disk) Size() int64 { return int64(len(d.durable)) }

var errOff = fmt.Errorf("the power is off")

// Read is of what was last written, durable or not.
func (d *Disk) Read(p []byte, at int64) error {
	return d.each(p, at, func(part []byte, n, from int64) { copy(part, d.latest(n)[from:]) })
}

// Write is into the cache.
func (d *Disk) Write(p []byte, at int64) error {
	return d.each(p, at, func(part []byte, n, from int64) {
		next := slices.Clone(d.latest(n))
		copy(next[from:], part)
		d.cache[n] = append(d.cache[n], next)
	})
}

// Harden makes durable what a range has now: the end of a write with FUA.
func (d *Disk) Harden(at, length int64) error {
	return d.each(make([]byte, length), at, func(_ []byte, n, _ int64) { d.settle(n, d.latest(n)) })
}

// Flush makes everything durable.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errOff
	}
	for n := range d.cache {
		d.settle(n, d.latest(n))
	}
	return nil
}

// Cut switches the power off.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// Survival is what becomes of the cache at a cut.
type Survival string

// The two extremes are there because a drive without a volatile cache, and one
// that only writes when it is told to, are both common.
const (
	Lost  Survival = "lost"  // nothing that was not flushed survives
	Kept  Survival = "kept"  // everything does
	Mixed Survival = "mixed" // by chance, block by block
)

// On switches the power on again after a cut, and says how many blocks of the
// cache survived in one of their contents, of how many.
func (d *Disk) On(s Survival, random *rand.Rand) (survived, of int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = false
	of = len(d.cache)
	for _, n := range slices.Sorted(maps.Keys(d.cache)) { // sorted, so that the seed decides
		contents := d.cache[n]
		keep := len(contents) // one more than the last: as it was before
		switch s {
		case Kept:
			keep--
		case Mixed:
			keep = random.IntN(len(contents) + 1)
		}
		if keep < len(contents) {
			d.settle(n, contents[keep])
			survived++
		}
	}
	clear(d.cache)
	return survived, of
}

// Dump writes out what is durable.
func (d *Disk) Dump(w io.Writer) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := w.Write(d.durable)
	return err
}

// each calls f for the part of p in each block.
func (d *Disk) each(p []byte, at int64, f func(part []byte, n, from int64)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errOff
	}
	if at < 0 || at+int64(len(p)) > d.Size() {
		return fmt.Errorf("%d bytes at %d are outside of the disk", len(p), at)
	}
	for len(p) > 0 {
		n, from := at/block, at%block
		size := min(int64(len(p)), block-from)
		f(p[:size], n, from)
		p, at = p[size:], at+size
	}
	return nil
}

func (d *Disk) latest(n int64) []byte {
	if contents := d.cache[n]; len(contents) > 0 {
		return contents[len(contents)-1]
	}
	return d.durable[n*block : (n+1)*block]
}

func (d *Disk) settle(n int64, content []byte) {
	copy(d.durable[n*block:], content)
	delete(d.cache, n)
}

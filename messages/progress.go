package messages

import (
	"fmt"
	"strings"
	"time"
)

// The states of a layer on its way into the store.
const (
	LayerWaiting     = "waiting"     // for a place among the downloads of the node
	LayerDownloading = "downloading" // and being unpacked as it comes
	LayerUnpacking   = "unpacking"   // all of it has come
	LayerReady       = "ready"       // to be committed with its image
	LayerDone        = "done"        // in the store
)

// LayerProgress is how far one layer is. Immutable once published.
type LayerProgress struct {
	Digest   string
	State    string
	Received int64     // bytes of the blob, those of an earlier try included
	Unpacked int64     // bytes of what is inside
	Size     int64     // of the blob; -1: the manifest does not say
	Rate     int64     // bytes of the blob a second, over the last seconds
	Begun    time.Time // zero: it waits
	Moved    time.Time // when the last byte came or was unpacked
	Stalled  bool      // that is long ago
	Tries    int       // of the download
	Trouble  string    // why the last of several tries was needed
}

// Ready says whether nothing is left to do for the layer before the commit.
func (l LayerProgress) Ready() bool { return l.State == LayerReady || l.State == LayerDone }

// PullProgress is how far a pull is. Immutable once published.
type PullProgress struct {
	Ref, Namespace, Source string

	State    string // resolving, fetching, committing, done, failed
	Begun    time.Time
	Since    time.Time // it is in this state
	Layers   []LayerProgress
	Waiters  int    // callers that wait for it
	Error    string // of one that failed
	Timeline []Edge
}

// Name is what people know the pull by.
func (p PullProgress) Name() string {
	switch {
	case p.Source == "":
		return p.Ref
	case p.Ref == "":
		return p.Source
	}
	return p.Ref + " from " + p.Source
}

// Ended says whether nothing happens any more.
func (p PullProgress) Ended() bool { return p.State == "done" || p.State == "failed" }

// Ready is how many layers are.
func (p PullProgress) Ready() (n int) {
	for _, l := range p.Layers {
		if l.Ready() {
			n++
		}
	}
	return n
}

// Received and Unpacked are sums over the layers.
func (p PullProgress) Received() (n int64) {
	for _, l := range p.Layers {
		n += l.Received
	}
	return n
}

// Unpacked is a sum over the layers.
func (p PullProgress) Unpacked() (n int64) {
	for _, l := range p.Layers {
		n += l.Unpacked
	}
	return n
}

// Rate is that of all layers together.
func (p PullProgress) Rate() (n int64) {
	for _, l := range p.Layers {
		n += l.Rate
	}
	return n
}

// Size is that of all blobs, -1 when the manifest does not say.
func (p PullProgress) Size() (n int64) {
	for _, l := range p.Layers {
		if l.Size < 0 {
			return -1
		}
		n += l.Size
	}
	return n
}

// StalledSince is when the last byte came, if all that could move stands still;
// else zero.
func (p PullProgress) StalledSince() (since time.Time) {
	for _, l := range p.Layers {
		switch {
		case l.Ready(), l.State == LayerWaiting:
		case !l.Stalled:
			return time.Time{}
		case l.Moved.After(since):
			since = l.Moved
		}
	}
	return since
}

// Left is how long the download will take at this rate; 0: that is not known.
func (p PullProgress) Left() time.Duration {
	size, rate := p.Size(), p.Rate()
	if size < 0 || rate == 0 {
		return 0
	}
	return time.Duration(float64(size-p.Received()) / float64(rate) * float64(time.Second))
}

// Describe says in words how far the layer is, for an error.
func (l LayerProgress) Describe(now time.Time) string {
	text := fmt.Sprintf("layer %s: %s received", l.Digest, ofSize(l.Received, l.Size))
	switch {
	case l.State == LayerWaiting:
		text = fmt.Sprintf("layer %s: waiting for its turn to be downloaded", l.Digest)
	case l.Ready():
		text += ", unpacked"
	case l.Stalled:
		text += fmt.Sprintf(", 0 B/s for %s (stalled since %s)", now.Sub(l.Moved).Round(time.Second), l.Moved.Format(time.TimeOnly))
	case l.State == LayerUnpacking:
		text += fmt.Sprintf(", %s unpacked so far", bytesOf(l.Unpacked))
	default:
		text += fmt.Sprintf(", %s/s", bytesOf(l.Rate))
	}
	if l.Trouble != "" {
		text += fmt.Sprintf(", tried %d times, the last because of: %s", l.Tries, l.Trouble)
	}
	return text
}

// Describe says in words how far the pull is, for an error: the layers that do
// not move, or else the one that has the most to come, and all together.
func (p PullProgress) Describe(now time.Time) string {
	if len(p.Layers) == 0 || p.State != "fetching" {
		return fmt.Sprintf("%s for %s", p.State, now.Sub(p.Since).Round(time.Millisecond))
	}
	var parts []string
	if l, ok := p.slowest(); ok {
		parts = append(parts, l.Describe(now))
	}
	return strings.Join(append(parts, p.Totals()), "; ")
}

// Totals says how far all layers together are.
func (p PullProgress) Totals() string {
	return fmt.Sprintf("%d of %d layers ready, %s received in all", p.Ready(), len(p.Layers), ofSize(p.Received(), p.Size()))
}

// slowest is the layer that holds the pull up: one that stands still before one
// that moves, one that moves before one that waits, then the one with most to come.
func (p PullProgress) slowest() (found LayerProgress, ok bool) {
	rank := func(l LayerProgress) int {
		switch {
		case l.Stalled:
			return 2
		case l.State != LayerWaiting:
			return 1
		}
		return 0
	}
	for _, l := range p.Layers {
		if l.Ready() {
			continue
		}
		if !ok || rank(l) > rank(found) || rank(l) == rank(found) && l.Size-l.Received > found.Size-found.Received {
			found, ok = l, true
		}
	}
	return found, ok
}

// ofSize is "12.0 of 90.0 MB", or the first alone when there is no second.
func ofSize(n, size int64) string {
	if size < 0 {
		return bytesOf(n)
	}
	unit, name := unitOf(size)
	return fmt.Sprintf("%s of %s %s", inUnit(n, unit), inUnit(size, unit), name)
}

func bytesOf(n int64) string {
	unit, name := unitOf(n)
	return inUnit(n, unit) + " " + name
}

func inUnit(n int64, unit float64) string {
	if unit == 1 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f", float64(n)/unit)
}

// unitOf is the decimal unit to say n in, as registries and disks do.
func unitOf(n int64) (unit float64, name string) {
	switch {
	case n >= 1e9:
		return 1e9, "GB"
	case n >= 1e6:
		return 1e6, "MB"
	case n >= 1e3:
		return 1e3, "kB"
	}
	return 1, "B"
}

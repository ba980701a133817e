package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends"
)

// holds keeps layers from being removed while a commit counts on them, and
// knows which ones we have made that no image has yet.
type holds struct {
	mu    sync.Mutex
	users map[string]int
	made  map[string]string // layer id to the path of its marker
}

func newHolds() *holds { return &holds{users: map[string]int{}, made: map[string]string{}} }

func (h *holds) hold(chain []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range chain {
		h.users[id]++
	}
}

// unhold lets a chain go that may be wanted again: nothing is dropped.
func (h *holds) unhold(chain []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range chain {
		if h.users[id]--; h.users[id] <= 0 {
			delete(h.users, id)
		}
	}
}

// making marks a layer as ours to remove, on disk too, before it exists.
func (h *holds) making(marker, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mark(marker, id)
}

// mark writes into the marker which boot made the layer: what it has beside its
// files may not be on disk, so that a later boot does not take it.
func (h *holds) mark(marker, id string) error {
	if err := os.WriteFile(marker, []byte(bootID()), 0o600); err != nil {
		return fmt.Errorf("marking layer %s as unfinished: %w", id, err)
	}
	h.made[id] = marker
	return nil
}

// notOurs takes back making: another tool has made the layer.
func (h *holds) notOurs(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	marker := h.made[id]
	delete(h.made, id)
	return ignoreMissing(os.Remove(marker))
}

// adopt takes over what an earlier daemon of this boot has made.
func (h *holds) adopt(marker, id string) bool {
	data, err := backends.ReadFile(marker)
	if err != nil || string(data) != bootID() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.made[id] = marker
	return true
}

// idle are the layers made before a time that no image has yet and nobody holds.
func (h *holds) idle(before time.Time) (ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, marker := range h.made {
		if info, err := os.Stat(marker); h.users[id] == 0 && (err != nil || info.ModTime().Before(before)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// release lets a chain go. Of the layers nobody holds any more, those we made
// are offered to drop, the uppermost first; drop refuses what an image has.
func (h *holds) release(chain []string, drop func(id string) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var failed []error
	for i := len(chain) - 1; i >= 0; i-- {
		id := chain[i]
		if h.users[id]--; h.users[id] > 0 {
			continue
		}
		delete(h.users, id)
		marker, ours := h.made[id]
		if !ours {
			continue
		}
		delete(h.made, id)
		if err := drop(id); err != nil {
			failed = append(failed, err) // the marker stays for the next start
			continue
		}
		if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// without runs work while nobody can begin to hold a layer.
func (h *holds) without(work func(still) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return work(still{h})
}

// still is holds while nothing in it changes.
type still struct{ h *holds }

func (s still) held(id string) bool { return s.h.users[id] > 0 }

// unfinished says whether there are layers that no image has yet.
func (s still) unfinished() bool { return len(s.h.made) > 0 }

// handOver makes a layer that has lost its last image one of those.
func (s still) handOver(marker, id string) error { return s.h.mark(marker, id) }

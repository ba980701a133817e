package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// holds keeps layers from being removed while a commit counts on them, and
// knows which ones we have made that no image has yet.
type holds struct {
	mu    sync.Mutex
	users map[string]int
	made  map[string]string // layer id to the path of its marker
}

func (h *holds) hold(chain []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users == nil {
		h.users, h.made = map[string]int{}, map[string]string{}
	}
	for _, id := range chain {
		h.users[id]++
	}
}

// making marks a layer as ours to remove, on disk too, before it exists.
func (h *holds) making(marker, id string) error {
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return fmt.Errorf("marking layer %s as unfinished: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.made[id] = marker
	return nil
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

// without runs work while nobody can begin to hold a layer. The work may ask
// what is held, and hand over a held layer that has lost its last image.
func (h *holds) without(work func(held func(string) bool, keep func(string) error) error, marker func(string) string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return work(
		func(id string) bool { return h.users[id] > 0 },
		func(id string) error {
			h.made[id] = marker(id)
			return os.WriteFile(marker(id), nil, 0o600)
		})
}

package images

import (
	"context"
	"fmt"
	"sync"
)

// keyed is one lock per key, given up waiting for when a context ends.
type keyed struct {
	mu   sync.Mutex
	keys map[string]*lane
}

type lane struct {
	turn  chan struct{} // holds one token while locked
	users int
}

// lock waits for the key and gives the function that unlocks it.
func (k *keyed) lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	if k.keys == nil {
		k.keys = map[string]*lane{}
	}
	l := k.keys[key]
	if l == nil {
		l = &lane{turn: make(chan struct{}, 1)}
		k.keys[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; k.leave(key, l) }, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, fmt.Errorf("waiting for another pull of %s: %w", key, ctx.Err())
	}
}

func (k *keyed) leave(key string, l *lane) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.keys, key)
	}
}

// busy says whether somebody has the key or waits for it.
func (k *keyed) busy(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[key] != nil
}

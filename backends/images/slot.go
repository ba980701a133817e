package images

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// slot is one of the node's places for unpacking, as many as it has cores. A
// layer holds it only while it has something to unpack: two registries that
// stand still must not keep all others from it.
type slot struct {
	ctx   context.Context
	cores *semaphore.Weighted

	mu   sync.Mutex
	held bool
}

func (p *slot) enter() error {
	if err := p.cores.Acquire(p.ctx, 1); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = true
	return nil
}

// leave may be called when it is not held.
func (p *slot) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.held = false
		p.cores.Release(1)
	}
}

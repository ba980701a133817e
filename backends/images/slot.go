package images

import (
	"context"
	"sync"

	"github.com/troupe-run/troupe/backends/gate"
)

// slot is one of the node's places for unpacking, as many as it has cores. A
// layer holds it only while it has something to unpack: two registries that
// stand still must not keep all others from it. Of those that wait the biggest
// goes first: several pulls may wait for a base they share, and what one of
// them has besides is unpacked meanwhile, not before.
type slot struct {
	ctx   context.Context
	cores *gate.Gate
	size  int64 // bytes of the layer

	mu   sync.Mutex
	held bool
}

func (p *slot) enter() error {
	if err := p.cores.Enter(p.ctx, p.size); err != nil {
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
		p.cores.Leave()
	}
}

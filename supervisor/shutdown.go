package supervisor

import (
	"context"
	"time"
)

// Shutdown ends the tree and nothing else: containers, mounts and networks
// stay, and the next daemon takes them up from the journal. The order: no new
// requests; the actors (whose end cancels their jobs); the jobs; the system.
func (t *Tree) Shutdown(ctx context.Context) error {
	if t.closing.Swap(true) {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = t.system.Root.StopFuture(t.node).Wait() // bounded by the library: 10 s
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	t.end()
	t.stop()
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	t.workers.wait(wait)
	t.system.Shutdown()
	return ctx.Err()
}

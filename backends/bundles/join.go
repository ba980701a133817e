package bundles

import (
	"context"
)

// join runs slow work on the node that cannot be interrupted: the caller's
// wait ends with its context, the work goes on, and a second caller for the
// same work waits for the first's instead of adding a thread that hangs.
func (b *Backend) join(ctx context.Context, key string, work func() (any, error)) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case done := <-b.looks.DoChan(key, work):
		return done.Val, done.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

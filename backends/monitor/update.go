package monitor

import (
	"context"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// Update puts other resources in force, all or none.
func (c *Client) Update(ctx context.Context, pod, container string, r backends.Resources) error {
	_, err := call[none](ctx, c, wire.OpUpdate, wire.Update{Ref: wire.Ref{Pod: pod, Container: container}, Resources: r})
	return err
}

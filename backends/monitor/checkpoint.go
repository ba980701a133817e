package monitor

import (
	"context"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// Freeze stops containers, all or none, at most for limit.
func (c *Client) Freeze(ctx context.Context, pod string, containers []string, limit time.Duration) error {
	_, err := call[none](ctx, c, wire.OpFreeze, wire.Freeze{Pod: pod, Containers: containers, Limit: limit})
	return err
}

// Thaw lets them go on.
func (c *Client) Thaw(ctx context.Context, pod string, containers []string) error {
	_, err := call[none](ctx, c, wire.OpThaw, wire.Freeze{Pod: pod, Containers: containers})
	return err
}

// Dump captures a container with CRIU.
func (c *Client) Dump(ctx context.Context, pod, container, dir string) error {
	_, err := call[none](ctx, c, wire.OpDump, wire.Dump{Ref: wire.Ref{Pod: pod, Container: container}, Dir: dir})
	return err
}

package cri

import (
	"context"

	"github.com/troupe-run/troupe/messages"
)

// Meter measures what pods and containers use. It is asked by the goroutine of
// the RPC: nothing in it waits for an actor, and it works when somebody asks.
type Meter interface {
	// Container measures a container that has a process; whole adds what only
	// metrics show. NotFound: it has ended meanwhile.
	Container(ctx context.Context, c *messages.ContainerSnapshot, whole bool) (messages.Usage, error)
	// Pod measures a pod's own cgroup; own is false when it has none.
	Pod(ctx context.Context, p *messages.PodSnapshot, whole bool) (u messages.Usage, own bool, err error)
	// Networks gives the counters of the pods that have a network namespace of
	// their own, by pod id.
	Networks(ctx context.Context, pods []*messages.PodSnapshot) map[string]messages.NetworkUsage
	// Disk is what a container, running or not, has written.
	Disk(ctx context.Context, c *messages.ContainerSnapshot) (messages.DiskUsage, error)
	// Root is the directory that what containers write is below.
	Root() string
	// Unified says whether memory is accounted by cgroup v2, which counts more.
	Unified() bool
}

package cri

import (
	"context"
	"sync"

	"github.com/troupe-run/troupe/messages"
)

// fakeMeter measures what a test says. What it has nothing for has ended.
type fakeMeter struct {
	mu       sync.Mutex
	usages   map[string]messages.Usage // by container, and by pod with a cgroup of its own
	failures map[string]error
	networks map[string]messages.NetworkUsage
	disks    map[string]messages.DiskUsage
	unified  bool
	whole    int // how often all was asked for
}

func (m *fakeMeter) Container(ctx context.Context, c *messages.ContainerSnapshot, whole bool) (messages.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if whole {
		m.whole++
	}
	if err := m.failures[c.ID]; err != nil {
		return messages.Usage{}, err
	}
	u, ok := m.usages[c.ID]
	if !ok {
		return u, messages.Errorf(messages.NotFound, "it has ended")
	}
	return u, ctx.Err()
}

func (m *fakeMeter) Pod(_ context.Context, p *messages.PodSnapshot, _ bool) (messages.Usage, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, own := m.usages[p.ID]
	return u, own, m.failures[p.ID]
}

func (m *fakeMeter) Networks(context.Context, []*messages.PodSnapshot) map[string]messages.NetworkUsage {
	return m.networks
}

func (m *fakeMeter) Disk(_ context.Context, c *messages.ContainerSnapshot) (messages.DiskUsage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disks[c.ID], nil
}

func (m *fakeMeter) Root() string { return "/var/lib/troupe" }

func (m *fakeMeter) Unified() bool { return m.unified }

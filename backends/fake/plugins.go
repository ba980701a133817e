package fake

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/backends"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pluginsBackend is a plugin that has no wishes; it takes its time and can
// refuse what it is asked, as all calls. Each daemon has its own: a plugin
// loses its connection with the daemon, and asks the next one what there is.
type pluginsBackend struct {
	backends.NoPlugins
	n *Node
	// started are the containers whose start it heard of and whose stop it has
	// not heard whole, by pod.
	started map[string]map[string]bool
}

func newPlugins(n *Node) pluginsBackend {
	return pluginsBackend{n: n, started: map[string]map[string]bool{}}
}

func (b pluginsBackend) ask(ctx context.Context, method, pod, container string) error {
	return b.n.call(ctx, Call{Backend: "Plugins", Method: method, Pod: pod, Container: container}, func() error { return nil })
}

func (b pluginsBackend) RunPod(ctx context.Context, p backends.PluginPod) error {
	return b.ask(ctx, "RunPod", p.ID, "")
}

func (b pluginsBackend) NoneFor(p backends.PluginPod) bool {
	return b.n.conf.NoPlugin != nil && b.n.conf.NoPlugin(p.ID)
}

func (b pluginsBackend) UpdatePod(ctx context.Context, p backends.PluginPod) error {
	return b.ask(ctx, "UpdatePod", p.ID, "")
}

// StopPod is heard after the stop of each of the pod's containers. (The daemon
// knows of no stop of one whose record was lost.)
func (b pluginsBackend) StopPod(ctx context.Context, p backends.PluginPod) {
	b.n.change(func() {
		for _, id := range sorted(b.started[p.ID]) {
			if !b.n.excused[backends.Key{Pod: p.ID, Container: id}] {
				b.n.misheard = append(b.n.misheard, fmt.Sprintf("pod %.12s container %.12s: plugins are told of the pod's stop and not yet of the container's", p.ID, id))
			}
		}
	})
	_ = b.ask(ctx, "StopPod", p.ID, "") // it can only be slow
}

func (b pluginsBackend) Start(ctx context.Context, c backends.PluginContainer) error {
	b.n.change(func() {
		if b.started[c.Pod.ID] == nil {
			b.started[c.Pod.ID] = map[string]bool{}
		}
		b.started[c.Pod.ID][c.ID] = true
	})
	return b.ask(ctx, "Start", c.Pod.ID, c.ID)
}

func (b pluginsBackend) Update(ctx context.Context, c backends.PluginContainer) (*runtime.LinuxContainerResources, error) {
	return nil, b.ask(ctx, "Update", c.Pod.ID, c.ID)
}

func (b pluginsBackend) Stop(ctx context.Context, c backends.PluginContainer) {
	_ = b.ask(ctx, "Stop", c.Pod.ID, c.ID)
	b.forget(c)
}

func (b pluginsBackend) Remove(_ context.Context, c backends.PluginContainer) { b.forget(c) }

func (b pluginsBackend) forget(c backends.PluginContainer) {
	b.n.change(func() {
		delete(b.started[c.Pod.ID], c.ID)
		if c.Pod.ID == "" {
			b.n.misheard = append(b.n.misheard, fmt.Sprintf("container %.12s: plugins are told of it without its pod", c.ID))
		}
	})
}

package fake

import (
	"context"

	"github.com/troupe-run/troupe/backends"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pluginsBackend is a plugin that has no wishes; it takes its time and can
// refuse what it is asked, as all calls.
type pluginsBackend struct {
	backends.NoPlugins
	n *Node
}

func (b pluginsBackend) ask(ctx context.Context, method, pod, container string) error {
	return b.n.call(ctx, Call{Backend: "Plugins", Method: method, Pod: pod, Container: container}, func() error { return nil })
}

func (b pluginsBackend) RunPod(ctx context.Context, p backends.PluginPod) error {
	return b.ask(ctx, "RunPod", p.ID, "")
}

func (b pluginsBackend) UpdatePod(ctx context.Context, p backends.PluginPod) error {
	return b.ask(ctx, "UpdatePod", p.ID, "")
}

func (b pluginsBackend) StopPod(ctx context.Context, p backends.PluginPod) {
	_ = b.ask(ctx, "StopPod", p.ID, "") // it can only be slow
}

func (b pluginsBackend) Start(ctx context.Context, c backends.PluginContainer) error {
	return b.ask(ctx, "Start", c.Pod.ID, c.ID)
}

func (b pluginsBackend) Update(ctx context.Context, c backends.PluginContainer) (*runtime.LinuxContainerResources, error) {
	return nil, b.ask(ctx, "Update", c.Pod.ID, c.ID)
}

func (b pluginsBackend) Stop(ctx context.Context, c backends.PluginContainer) {
	_ = b.ask(ctx, "Stop", c.Pod.ID, c.ID)
}

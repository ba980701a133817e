package backends

import (
	"context"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Plugins tells the node's plugins (NRI, github.com/containerd/nri) what
// happens to pods and containers. That a container is created they hear from
// Bundles.Write, where they adjust its spec.
//
// Calls that give an error are asked before something is done, and a plugin's
// refusal is the error. The others tell what has been done: nobody can refuse
// it, and what a plugin says against it is logged. Each plugin is given a
// bounded time; one that exceeds it is disconnected. Without a plugin all of
// them return at once.
type Plugins interface {
	RunPod(ctx context.Context, p PluginPod) error
	// NoneFor says that there is no plugin to ask whether a pod may run. Then
	// it is known from here on as if RunPod had been called.
	NoneFor(p PluginPod) bool
	UpdatePod(ctx context.Context, p PluginPod) error
	UpdatedPod(ctx context.Context, p PluginPod)
	// StopPod comes when Stop has returned for each container of the pod. It
	// also tells, before, of one whose stop has not been told: its record was lost.
	StopPod(ctx context.Context, p PluginPod)
	// RemovePod and Remove are for what was asked about, and do nothing for
	// what was not.
	RemovePod(ctx context.Context, p PluginPod)

	Created(ctx context.Context, c PluginContainer)
	Start(ctx context.Context, c PluginContainer) error
	Started(ctx context.Context, c PluginContainer)
	// Update gives the resources that plugins make of those in c, which are
	// asked for; nil: they leave them as they are.
	Update(ctx context.Context, c PluginContainer) (*runtime.LinuxContainerResources, error)
	Updated(ctx context.Context, c PluginContainer)
	Stop(ctx context.Context, c PluginContainer)
	Remove(ctx context.Context, c PluginContainer)
}

// PluginPod is what plugins hear of a pod.
type PluginPod struct {
	ID         string
	Config     *runtime.PodSandboxConfig
	Handler    string
	Cgroup     string
	Namespaces messages.Namespaces
	IPs        []string
	Pid        int  // of its pause process; 0: it has none
	Told       bool // plugins were asked about it, as its record says
}

// PluginContainer is what plugins hear of a container, beside its spec.
type PluginContainer struct {
	ID        string
	Pod       PluginPod
	Config    *runtime.ContainerConfig
	State     messages.ContainerState
	CreatedAt time.Time
	Process   messages.ProcessState
	Told      bool // plugins were asked about it, as its record says

	Reason, Message string // of its exit
}

// NoPlugins is a node without plugins.
type NoPlugins struct{}

var _ Plugins = NoPlugins{}

// RunPod implements Plugins.
func (NoPlugins) RunPod(context.Context, PluginPod) error { return nil }

// NoneFor implements Plugins.
func (NoPlugins) NoneFor(PluginPod) bool { return true }

// UpdatePod implements Plugins.
func (NoPlugins) UpdatePod(context.Context, PluginPod) error { return nil }

// UpdatedPod implements Plugins.
func (NoPlugins) UpdatedPod(context.Context, PluginPod) {}

// StopPod implements Plugins.
func (NoPlugins) StopPod(context.Context, PluginPod) {}

// RemovePod implements Plugins.
func (NoPlugins) RemovePod(context.Context, PluginPod) {}

// Created implements Plugins.
func (NoPlugins) Created(context.Context, PluginContainer) {}

// Start implements Plugins.
func (NoPlugins) Start(context.Context, PluginContainer) error { return nil }

// Started implements Plugins.
func (NoPlugins) Started(context.Context, PluginContainer) {}

// Update implements Plugins.
func (NoPlugins) Update(context.Context, PluginContainer) (*runtime.LinuxContainerResources, error) {
	return nil, nil
}

// Updated implements Plugins.
func (NoPlugins) Updated(context.Context, PluginContainer) {}

// Stop implements Plugins.
func (NoPlugins) Stop(context.Context, PluginContainer) {}

// Remove implements Plugins.
func (NoPlugins) Remove(context.Context, PluginContainer) {}

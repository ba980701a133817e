package bundles

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Adjust lets the node's plugins adjust a container's spec, which is complete.
// CDI devices are injected by inject. It gives the resources that plugins
// changed, or nil; an error is a refusal of the container.
//
// Plugins are the node's administrator's and are not held to what a pod may
// ask for.
type Adjust func(ctx context.Context, r backends.BundleRequest, spec *specs.Spec, inject func(*specs.Spec, []string) error) (*runtime.LinuxContainerResources, error)

func (b *bundle) plugins() (err error) {
	if b.config.Adjust == nil {
		return nil
	}
	b.Adjusted, err = b.config.Adjust(b.ctx, b.r, b.spec, b.injectCDI)
	if err != nil || b.Adjusted == nil {
		return err
	}
	// They are held to what the node can do, as those of an update are.
	asked := *b
	asked.r.Config = &runtime.ContainerConfig{Linux: &runtime.LinuxContainerConfig{
		Resources: messages.Resized(b.r.Config.GetLinux().GetResources(), b.Adjusted),
	}}
	asked.spec = &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	if err := asked.resources(); err != nil {
		return err
	}
	r, made := b.spec.Linux.Resources, asked.spec.Linux.Resources
	if made.CPU != nil && r.CPU != nil {
		made.CPU.RealtimePeriod, made.CPU.RealtimeRuntime = r.CPU.RealtimePeriod, r.CPU.RealtimeRuntime
	}
	r.CPU, r.Memory, r.HugepageLimits, r.Unified = made.CPU, made.Memory, made.HugepageLimits, made.Unified
	return nil
}

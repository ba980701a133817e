package nri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Adjust is bundles.Adjust: plugins are asked about a container that is being
// created, and the spec becomes what they make of it.
func (b *Backend) Adjust(ctx context.Context, req backends.BundleRequest, spec *specs.Spec, inject func(*specs.Spec, []string) error) (*runtime.LinuxContainerResources, error) {
	r, leave := b.enter()
	defer leave()
	c := backends.PluginContainer{
		ID: req.Container, Config: req.Config, State: messages.ContainerCreating, CreatedAt: time.Now(),
		Pod: b.known.pod(b.published(backends.PluginPod{
			ID: req.Pod, Config: req.PodConfig, Handler: req.Handler, Cgroup: req.CgroupParent, Namespaces: req.Namespaces,
		})),
	}
	if r == nil {
		b.known.putContainer(c, nil)
		return nil, nil
	}
	asked := bare(c)
	fill(asked, spec)
	b.known.putContainer(c, asked)
	rpl, err := r.CreateContainer(own(ctx), &adaptation.CreateContainerRequest{Pod: podSandbox(c.Pod), Container: asked})
	if err != nil {
		return nil, refused("CreateContainer", err)
	}
	b.later("CreateContainer", rpl.GetUpdate())
	made, err := apply(spec, rpl.GetAdjust(), inject)
	if err != nil {
		return nil, fmt.Errorf("NRI plugins adjust the container: %w", err)
	}
	whole := bare(c)
	fill(whole, spec)
	b.known.putContainer(c, whole)
	return made, nil
}

// published adds a pod's addresses, which a bundle does not need.
func (b *Backend) published(p backends.PluginPod) backends.PluginPod {
	if b.host == nil {
		return p
	}
	if s, err := b.host.View().Pod(p.ID); err == nil {
		p.IPs = s.IPs
	}
	return p
}

// apply makes the adjustments and gives the resources among them. What cannot
// be made is an error.
func apply(spec *specs.Spec, a *api.ContainerAdjustment, inject func(*specs.Spec, []string) error) (*runtime.LinuxContainerResources, error) {
	if a == nil {
		return nil, nil
	}
	asked := a.GetLinux().GetResources()
	for name, set := range map[string]bool{"block I/O": asked.GetBlockioClass() != nil, "RDT": asked.GetRdtClass() != nil} {
		if set {
			return nil, messages.Errorf(messages.Unsupported, "%s classes are not supported: let the plugin set the limits themselves (unified, or the resctrl group)", name)
		}
	}
	if a.GetLinux().GetCgroupsPath() != "" {
		return nil, messages.Errorf(messages.Unsupported, "a container's cgroup cannot be moved: its use is measured and its limits are set where Troupe put it")
	}
	g := generate.SpecGenerator(&editor{spec: spec}, generate.WithCDIDeviceInjector(inject))
	if err := g.Adjust(a); err != nil {
		return nil, err
	}
	if made := cri(asked); !proto.Equal(made, &runtime.LinuxContainerResources{}) {
		return made, nil
	}
	return nil, nil
}

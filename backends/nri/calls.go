package nri

import (
	"context"
	"fmt"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPod implements backends.Plugins.
func (b *Backend) RunPod(ctx context.Context, p backends.PluginPod) error {
	r, leave := b.enter()
	defer leave()
	b.known.putPod(p)
	if r == nil {
		return nil
	}
	return refused("RunPodSandbox", r.RunPodSandbox(own(ctx), &adaptation.RunPodSandboxRequest{Pod: podSandbox(p)}))
}

// NoneFor implements backends.Plugins.
func (b *Backend) NoneFor(p backends.PluginPod) bool {
	r, leave := b.enter()
	defer leave()
	if r == nil {
		b.known.putPod(p)
	}
	return r == nil
}

// refused is a plugin's error, which names the plugin.
func refused(request string, err error) error {
	if err == nil {
		return nil
	}
	return messages.Errorf(messages.KindOf(err), "an NRI plugin refuses %s: %w", request, err)
}

// UpdatePod implements backends.Plugins.
func (b *Backend) UpdatePod(ctx context.Context, p backends.PluginPod) error {
	r, leave := b.enter()
	defer leave()
	if r == nil {
		return nil
	}
	_, err := r.UpdatePodSandbox(own(ctx), &adaptation.UpdatePodSandboxRequest{
		Pod: podSandbox(b.known.pod(p)), OverheadLinuxResources: fromCRI(p.Config.GetLinux().GetOverhead()), LinuxResources: fromCRI(p.Config.GetLinux().GetResources()),
	})
	return refused("UpdatePodSandbox", err)
}

// UpdatedPod implements backends.Plugins.
func (b *Backend) UpdatedPod(ctx context.Context, p backends.PluginPod) {
	r, leave := b.enter()
	defer leave()
	b.known.putPod(p)
	if r != nil {
		b.note(p.ID, "", "PostUpdatePodSandbox", r.PostUpdatePodSandbox(own(ctx), &adaptation.PostUpdatePodSandboxRequest{Pod: podSandbox(p)}))
	}
}

// note logs what a plugin says against what has happened.
func (b *Backend) note(pod, container, request string, err error) {
	if err != nil {
		b.log.Warn("an NRI plugin failed; what it was told of has happened all the same", "pod", pod, "container", container, "request", request, "err", err)
	}
}

// StopPod implements backends.Plugins.
func (b *Backend) StopPod(ctx context.Context, p backends.PluginPod) {
	r, leave := b.enter()
	defer leave()
	for _, c := range b.known.running(p.ID) { // of a container whose record was lost nobody else tells
		c.State = messages.ContainerExited
		b.stopIn(ctx, r, c)
	}
	if r != nil {
		b.note(p.ID, "", "StopPodSandbox", r.StopPodSandbox(own(ctx), &adaptation.StopPodSandboxRequest{Pod: podSandbox(p)}))
	}
}

// RemovePod implements backends.Plugins.
func (b *Backend) RemovePod(ctx context.Context, p backends.PluginPod) {
	r, leave := b.enter()
	defer leave()
	known := b.known.dropPod(p.ID)
	if r != nil && (known || p.Told) {
		b.note(p.ID, "", "RemovePodSandbox", r.RemovePodSandbox(own(ctx), &adaptation.RemovePodSandboxRequest{Pod: podSandbox(p)}))
	}
}

// Created implements backends.Plugins.
func (b *Backend) Created(ctx context.Context, c backends.PluginContainer) {
	b.tell(c, "PostCreateContainer", func(r *adaptation.Adaptation, p *api.PodSandbox, whole *api.Container) error {
		return r.PostCreateContainer(own(ctx), &adaptation.PostCreateContainerRequest{Pod: p, Container: whole})
	})
}

// Start implements backends.Plugins.
func (b *Backend) Start(ctx context.Context, c backends.PluginContainer) error {
	return refused("StartContainer", b.with(c, func(r *adaptation.Adaptation, p *api.PodSandbox, whole *api.Container) error {
		return r.StartContainer(own(ctx), &adaptation.StartContainerRequest{Pod: p, Container: whole})
	}))
}

// Started implements backends.Plugins.
func (b *Backend) Started(ctx context.Context, c backends.PluginContainer) {
	b.tell(c, "PostStartContainer", func(r *adaptation.Adaptation, p *api.PodSandbox, whole *api.Container) error {
		return r.PostStartContainer(own(ctx), &adaptation.PostStartContainerRequest{Pod: p, Container: whole})
	})
}

// Update implements backends.Plugins.
func (b *Backend) Update(ctx context.Context, c backends.PluginContainer) (made *runtime.LinuxContainerResources, err error) {
	asked := fromCRI(c.Config.GetLinux().GetResources())
	err = b.with(c, func(r *adaptation.Adaptation, p *api.PodSandbox, whole *api.Container) error {
		rpl, err := r.UpdateContainer(own(ctx), &adaptation.UpdateContainerRequest{Pod: p, Container: whole, LinuxResources: asked})
		if err != nil {
			return refused("UpdateContainer", err)
		}
		// The last is about this container, with all that is asked for.
		var others []*api.ContainerUpdate
		for _, u := range rpl.GetUpdate() {
			if u.GetContainerId() != c.ID {
				others = append(others, u)
				continue
			}
			if proto.Equal(u.GetLinux().GetResources(), asked) {
				continue
			}
			if made, err = toCRI(u.GetLinux().GetResources()); err != nil {
				return fmt.Errorf("an NRI plugin adjusts UpdateContainer: %w", err)
			}
		}
		b.later("UpdateContainer", others)
		return nil
	})
	return made, err
}

// Updated implements backends.Plugins.
func (b *Backend) Updated(ctx context.Context, c backends.PluginContainer) {
	b.tell(c, "PostUpdateContainer", func(r *adaptation.Adaptation, p *api.PodSandbox, whole *api.Container) error {
		return r.PostUpdateContainer(own(ctx), &adaptation.PostUpdateContainerRequest{Pod: p, Container: whole})
	})
}

// Stop implements backends.Plugins.
func (b *Backend) Stop(ctx context.Context, c backends.PluginContainer) {
	r, leave := b.enter()
	defer leave()
	b.stopIn(ctx, r, c)
}

// stopIn tells of a container's stop, once.
func (b *Backend) stopIn(ctx context.Context, r *adaptation.Adaptation, c backends.PluginContainer) {
	if !b.known.stop(c.ID) || r == nil {
		return
	}
	rpl, err := r.StopContainer(own(ctx), &adaptation.StopContainerRequest{Pod: podSandbox(b.known.pod(c.Pod)), Container: b.container(c)})
	if err != nil {
		b.note(c.Pod.ID, c.ID, "StopContainer", err)
		return
	}
	b.later("StopContainer", rpl.GetUpdate())
}

// Remove implements backends.Plugins.
func (b *Backend) Remove(ctx context.Context, c backends.PluginContainer) {
	r, leave := b.enter()
	defer leave()
	if r != nil && (c.Told || b.known.has(c.ID)) {
		b.note(c.Pod.ID, c.ID, "RemoveContainer", r.RemoveContainer(own(ctx), &adaptation.RemoveContainerRequest{
			Pod: podSandbox(b.known.pod(c.Pod)), Container: b.container(c),
		}))
	}
	b.known.drop(c.ID)
}

// with takes down how a container is and asks the plugins, if there are any.
func (b *Backend) with(c backends.PluginContainer, ask func(*adaptation.Adaptation, *api.PodSandbox, *api.Container) error) error {
	r, leave := b.enter()
	defer leave()
	if r == nil {
		b.known.putContainer(c, nil)
		return nil
	}
	whole := b.container(c)
	b.known.putContainer(c, whole)
	return ask(r, podSandbox(b.known.pod(c.Pod)), whole)
}

func (b *Backend) tell(c backends.PluginContainer, request string, f func(*adaptation.Adaptation, *api.PodSandbox, *api.Container) error) {
	b.note(c.Pod.ID, c.ID, request, b.with(c, f))
}

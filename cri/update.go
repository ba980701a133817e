package cri

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainerResources changes the limits of a created or running
// container; they are in force when this returns, and as before after an error.
// Annotations of the request are nobody's here: cri-api has them for
// experiments.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtime.UpdateContainerResourcesRequest) (*runtime.UpdateContainerResourcesResponse, error) {
	if err := validateUpdate(r); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := in("linux", validateResources(messages.Resized(c.Config.GetLinux().GetResources(), r.GetLinux()))); err != nil {
		return nil, fmt.Errorf("update container %s: with what it has already: %w", c.ID, err)
	}
	if pod, err := s.node.View().Pod(c.Pod); err == nil {
		if err := s.checkMemory(pod, r.GetLinux()); err != nil {
			return nil, fmt.Errorf("update container %s: %w", c.ID, err)
		}
	}
	_, err = ask(ctx, s.node, messages.UpdateContainer{Call: callOf(ctx), Pod: c.Pod, Container: c.ID, Resources: r.GetLinux()})
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return &runtime.UpdateContainerResourcesResponse{}, nil
}

// UpdatePodSandboxResources takes down the resources of a pod, whose cgroup the
// kubelet has changed before.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, r *runtime.UpdatePodSandboxResourcesRequest) (*runtime.UpdatePodSandboxResourcesResponse, error) {
	if err := firstOf(in("overhead", validateLimits(r.GetOverhead())), in("resources", validateLimits(r.GetResources()))); err != nil {
		return nil, err
	}
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	_, err = ask(ctx, s.node, messages.UpdatePod{Call: callOf(ctx), Pod: pod.ID, Overhead: r.GetOverhead(), Resources: r.GetResources()})
	if err != nil {
		return nil, fmt.Errorf("update pod %s: %w", pod.ID, err)
	}
	return &runtime.UpdatePodSandboxResourcesResponse{}, nil
}

func validateUpdate(r *runtime.UpdateContainerResourcesRequest) error {
	switch {
	case r.GetWindows() != nil:
		return invalid("windows", "is set: this is a Linux node")
	case r.GetLinux() == nil:
		return invalid("linux", "is missing: send the LinuxContainerResources to update")
	}
	return firstOf(
		validateID("container_id", r.GetContainerId()),
		in("linux", validateLimits(r.GetLinux())),
	)
}

package cri

import (
	"context"
	"fmt"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container in a ready sandbox. A retry of the same
// name and attempt joins the first call.
func (s *Server) CreateContainer(ctx context.Context, r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	if err := validateCreate(r); err != nil {
		return nil, err
	}
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	if err := s.checkMemory(pod, r.GetConfig().GetLinux().GetResources()); err != nil {
		return nil, fmt.Errorf("create container %s in pod %s: %w", r.GetConfig().GetMetadata().GetName(), pod.ID, err)
	}
	id, err := ask(ctx, s.node, messages.CreateContainer{Call: callOf(ctx), Pod: pod.ID, Config: r.GetConfig()})
	if err != nil {
		return nil, fmt.Errorf("create container %s in pod %s: %w", r.GetConfig().GetMetadata().GetName(), pod.ID, err)
	}
	return &runtime.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer starts a created container.
func (s *Server) StartContainer(ctx context.Context, r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	_, err = ask(ctx, s.node, messages.StartContainer{Call: callOf(ctx), Pod: c.Pod, Container: c.ID})
	if err != nil {
		return nil, fmt.Errorf("start container %s: %w", c.ID, err)
	}
	return &runtime.StartContainerResponse{}, nil
}

// StopContainer stops a container within its grace period. An unknown one is
// stopped.
func (s *Server) StopContainer(ctx context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	if err := validateStop(r); err != nil {
		return nil, err
	}
	done := &runtime.StopContainerResponse{}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return done, gone(err)
	}
	_, err = ask(ctx, s.node, messages.StopContainer{Call: callOf(ctx), Pod: c.Pod, Container: c.ID, Grace: seconds(r.GetTimeout())})
	if gone(err) != nil {
		return nil, fmt.Errorf("stop container %s: %w", c.ID, err)
	}
	return done, nil
}

// RemoveContainer removes a container, running or not. An unknown one is
// removed.
func (s *Server) RemoveContainer(ctx context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	done := &runtime.RemoveContainerResponse{}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return done, gone(err)
	}
	_, err = ask(ctx, s.node, messages.RemoveContainer{Call: callOf(ctx), Pod: c.Pod, Container: c.ID})
	if gone(err) != nil {
		return nil, fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return done, nil
}

// ContainerStatus answers from the published snapshot.
func (s *Server) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	// People who ask where a creation hangs get an answer; the kubelet must not
	// see a container before all who may refuse it have agreed.
	if c.State == messages.ContainerCreating && !r.GetVerbose() {
		return nil, messages.Errorf(messages.NotFound, "container %s is being created: its status is there when it has been", c.ID)
	}
	image, _ := s.node.View().Image(c.ImageID)
	response := &runtime.ContainerStatusResponse{Status: containerStatus(c, image)}
	if r.GetVerbose() {
		response.Info, err = containerInfo(c)
	}
	return response, err
}

// ListContainers answers from the published snapshots.
func (s *Server) ListContainers(_ context.Context, r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{Containers: listContainers(s.node.View(), r.GetFilter())}, nil
}

// ExecSync runs a command in a running container and waits for its end.
func (s *Server) ExecSync(ctx context.Context, r *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	if err := validateExecSync(r); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	result, err := ask(ctx, s.node, messages.ExecSync{
		Call: callOf(ctx), Pod: c.Pod, Container: c.ID,
		Command: r.GetCmd(), Timeout: seconds(r.GetTimeout()),
	})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return fit(&runtime.ExecSyncResponse{Stdout: result.Stdout, Stderr: result.Stderr, ExitCode: result.ExitCode}), nil
}

// ReopenContainerLog returns when the container's output goes to a new file.
func (s *Server) ReopenContainerLog(ctx context.Context, r *runtime.ReopenContainerLogRequest) (*runtime.ReopenContainerLogResponse, error) {
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	_, err = ask(ctx, s.node, messages.ReopenLog{Call: callOf(ctx), Pod: c.Pod, Container: c.ID})
	if err != nil {
		return nil, fmt.Errorf("reopen log of container %s: %w", c.ID, err)
	}
	return &runtime.ReopenContainerLogResponse{}, nil
}

// container finds a container by id or unambiguous prefix.
func (s *Server) container(id string) (*messages.ContainerSnapshot, error) {
	if err := validateID("container_id", id); err != nil {
		return nil, err
	}
	return s.node.View().Container(id)
}

package cri

import (
	"context"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exec gives the address at which a command in a running container is served.
func (s *Server) Exec(_ context.Context, r *runtime.ExecRequest) (*runtime.ExecResponse, error) {
	if err := validateExec(r); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(r.GetContainerId(), "no command can run in it")
	if err != nil {
		return nil, err
	}
	request := proto.CloneOf(r)
	request.ContainerId = c.ID
	url, err := s.streams.url(kindExec, request)
	return &runtime.ExecResponse{Url: url}, err
}

// Attach gives the address at which a running container's streams are served.
func (s *Server) Attach(_ context.Context, r *runtime.AttachRequest) (*runtime.AttachResponse, error) {
	if err := validateAttach(r); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(r.GetContainerId(), "there is nothing to attach to")
	if err != nil {
		return nil, err
	}
	request := proto.CloneOf(r)
	request.ContainerId = c.ID
	url, err := s.streams.url(kindAttach, request)
	return &runtime.AttachResponse{Url: url}, err
}

// PortForward gives the address at which a ready pod's ports are served.
func (s *Server) PortForward(_ context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	if err := validatePortForward(r); err != nil {
		return nil, err
	}
	p, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if p.State != messages.PodReady {
		return nil, messages.Errorf(messages.Precondition, "pod %s is %s, not ready: none of its ports can be reached", p.ID, p.State)
	}
	request := proto.CloneOf(r)
	request.PodSandboxId = p.ID
	url, err := s.streams.url(kindForward, request)
	return &runtime.PortForwardResponse{Url: url}, err
}

// runningContainer refuses early what the container's actor would refuse: then
// the caller hears of it from the RPC and not from a session.
func (s *Server) runningContainer(id, otherwise string) (*messages.ContainerSnapshot, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if c.CRIState() != runtime.ContainerState_CONTAINER_RUNNING {
		return nil, messages.Errorf(messages.Precondition, "container %s is %s, not running: %s", c.ID, c.State, otherwise)
	}
	return c, nil
}

package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox starts a sandbox; it is ready when this returns. A retry of
// the same pod and attempt joins the first call.
func (s *Server) RunPodSandbox(ctx context.Context, r *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	if err := validateRunPod(r); err != nil {
		return nil, err
	}
	handler, err := s.handler(r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	if err := s.checkUserNamespaces(r.GetConfig(), handler); err != nil {
		return nil, err
	}
	shm, err := s.shmSize(handler, r.GetConfig().GetAnnotations())
	if err != nil {
		return nil, err
	}
	id, err := ask(ctx, s.node, messages.RunPod{Call: callOf(ctx), Config: r.GetConfig(), Handler: handler, ShmSize: shm})
	if err != nil {
		m := r.GetConfig().GetMetadata()
		return nil, fmt.Errorf("run pod %s/%s: %w", m.GetNamespace(), m.GetName(), err)
	}
	return &runtime.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox stops a sandbox and its containers. An unknown one is stopped.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	done := &runtime.StopPodSandboxResponse{}
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return done, gone(err)
	}
	_, err = ask(ctx, s.node, messages.StopPod{Call: callOf(ctx), Pod: pod.ID})
	if gone(err) != nil {
		return nil, fmt.Errorf("stop pod %s: %w", pod.ID, err)
	}
	return done, nil
}

// RemovePodSandbox removes a sandbox and its containers, running or not. An
// unknown one is removed.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	done := &runtime.RemovePodSandboxResponse{}
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return done, gone(err)
	}
	_, err = ask(ctx, s.node, messages.RemovePod{Call: callOf(ctx), Pod: pod.ID})
	if gone(err) != nil {
		return nil, fmt.Errorf("remove pod %s: %w", pod.ID, err)
	}
	return done, nil
}

// PodSandboxStatus answers from the published snapshot.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	at := time.Now() // before reading: nothing reported is newer than it says
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	view := s.node.View()
	response := &runtime.PodSandboxStatusResponse{
		Status:             podStatus(pod),
		ContainersStatuses: containerStatuses(view, view.ContainersOf(pod.ID)),
		Timestamp:          at.UnixNano(),
	}
	if r.GetVerbose() {
		response.Info, err = podInfo(pod)
	}
	return response, err
}

// ListPodSandbox answers from the published snapshots.
func (s *Server) ListPodSandbox(_ context.Context, r *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{Items: listPods(s.node.View(), r.GetFilter())}, nil
}

// pod finds a sandbox by id or unambiguous prefix.
func (s *Server) pod(id string) (*messages.PodSnapshot, error) {
	if err := validateID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	return s.node.View().Pod(id)
}

package cri

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What of checkpoints is switched on (crio.conf(5), checkpoint_restore).
const (
	CheckpointsNone    = "none"
	CheckpointsOnly    = "checkpoint_only"
	CheckpointsRestore = "checkpoint_restore"
)

// CheckpointContainer writes a running container's checkpoint to an archive; it
// runs on.
func (s *Server) CheckpointContainer(ctx context.Context, r *runtime.CheckpointContainerRequest) (*runtime.CheckpointContainerResponse, error) {
	if err := firstOf(
		validateID("container_id", r.GetContainerId()), validateTimeout(r.GetTimeout()),
		validatePlace("location", r.GetLocation()), s.checkpoints(CheckpointsOnly, CheckpointsRestore),
	); err != nil {
		return nil, err
	}
	c, err := s.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if timeout := seconds(r.GetTimeout()); timeout > 0 { // "> 0 means to use the user specified timeout"
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_, err = ask(ctx, s.node, messages.CheckpointContainer{Call: callOf(ctx), Pod: c.Pod, Container: c.ID, Location: r.GetLocation()})
	if err != nil {
		return nil, fmt.Errorf("checkpoint container %s: %w", c.ID, err)
	}
	return &runtime.CheckpointContainerResponse{}, nil
}

// CheckpointPod writes one consistent checkpoint of all running containers of a
// pod to a directory of the caller's.
func (s *Server) CheckpointPod(ctx context.Context, r *runtime.CheckpointPodRequest) (*runtime.CheckpointPodResponse, error) {
	if err := firstOf(
		validateID("pod_sandbox_id", r.GetPodSandboxId()), validatePlace("output_path", r.GetOutputPath()),
		validateOptions(r.GetOptions()), s.checkpoints(CheckpointsOnly, CheckpointsRestore),
	); err != nil {
		return nil, err
	}
	pod, err := s.pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	ids, err := s.selected(pod.ID, r.GetContainerIds())
	if err != nil {
		return nil, err
	}
	_, err = ask(ctx, s.node, messages.CheckpointPod{Call: callOf(ctx), Pod: pod.ID, Dir: r.GetOutputPath(), Containers: ids})
	if err != nil {
		return nil, fmt.Errorf("checkpoint pod %s: %w", pod.ID, err)
	}
	return &runtime.CheckpointPodResponse{}, nil
}

// selected are the full ids of the containers that a checkpoint is to have.
func (s *Server) selected(pod string, asked []string) ([]string, error) {
	if len(asked) == 0 {
		return nil, invalid("container_ids", "is empty: name the running containers of the pod")
	}
	var ids []string
	for i, id := range asked {
		c, err := s.container(id)
		if err != nil {
			return nil, fmt.Errorf("container_ids[%d]: %w", i, err)
		}
		switch {
		case c.Pod != pod:
			return nil, invalid(fmt.Sprintf("container_ids[%d]", i), "%s belongs to pod %s, not to %s", id, c.Pod, pod)
		case slices.Contains(ids, c.ID):
			return nil, invalid(fmt.Sprintf("container_ids[%d]", i), "%s is named twice", id)
		}
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// RestorePod makes a pod of a checkpoint.
func (s *Server) RestorePod(ctx context.Context, r *runtime.RestorePodRequest) (*runtime.RestorePodResponse, error) {
	if err := firstOf(
		validatePlace("checkpoint_path", r.GetCheckpointPath()), validateOptions(r.GetOptions()),
		validateRunPod(&runtime.RunPodSandboxRequest{Config: r.GetConfig()}), validateRestored(r.GetContainerConfigs()),
		s.checkpoints(CheckpointsRestore),
	); err != nil {
		return nil, err
	}
	handler, err := s.handler(r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	if err := refuseMapped(r); err != nil {
		return nil, err
	}
	shm, err := s.shmSize(handler, r.GetConfig().GetAnnotations())
	if err != nil {
		return nil, err
	}
	made, err := ask(ctx, s.node, messages.RestorePod{
		Call: callOf(ctx), Dir: r.GetCheckpointPath(), Handler: handler, ShmSize: shm, Config: r.GetConfig(), Containers: r.GetContainerConfigs(),
	})
	if err != nil {
		return nil, err
	}
	response := &runtime.RestorePodResponse{PodSandboxId: made.Pod}
	for _, name := range slices.Sorted(maps.Keys(made.Containers)) {
		response.RestoredContainers = append(response.RestoredContainers, &runtime.RestoredContainer{Name: name, ContainerId: made.Containers[name]})
	}
	return response, nil
}

// refuseMapped: the files in a checkpoint belong to the users of the old pod's
// mapping, and CRIU does not join a user namespace that is there already.
func refuseMapped(r *runtime.RestorePodRequest) error {
	if o := r.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(); o != nil && o.GetMode() == runtime.NamespaceMode_POD {
		return messages.Errorf(messages.Precondition, "a pod in a user namespace cannot be restored: start it anew")
	}
	for _, c := range r.GetContainerConfigs() {
		if c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == runtime.NamespaceMode_TARGET {
			return messages.Errorf(messages.Precondition, "container %s in the PID namespace of another one cannot be restored: start it anew", c.GetMetadata().GetName())
		}
	}
	return nil
}

// checkpoints says whether what is asked is switched on.
func (s *Server) checkpoints(on ...string) error {
	if slices.Contains(on, s.config.Checkpoints) {
		return nil
	}
	return messages.Errorf(messages.Precondition, "it is switched off on this node: set container_level_enabled in [crio.checkpoint_restore] to %q (it is %q), and leave enable_criu_support in [crio.runtime] true", on[0], s.config.Checkpoints)
}

// validatePlace checks a path on the node; what is there is the node's to say.
func validatePlace(field, place string) error {
	switch {
	case place == "":
		return invalid(field, "is empty: say where")
	case !path.IsAbs(place), path.Clean(place) != place, strings.ContainsRune(place, 0), place == "/":
		return invalid(field, "%q: must be an absolute path without \"..\", \"//\" or a slash at its end", place)
	}
	return nil
}

// validateOptions: there are none, and unknown ones must be refused.
func validateOptions(options map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		return invalid("options", "%q: this runtime knows no options of checkpoints", key)
	}
	return nil
}

func validateRestored(configs []*runtime.ContainerConfig) error {
	if len(configs) == 0 {
		return invalid("container_configs", "is empty: send the configuration of each container in the checkpoint")
	}
	seen := map[string]bool{}
	for i, c := range configs {
		field := fmt.Sprintf("container_configs[%d]", i)
		if err := validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "to be", Config: c}); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if name := c.GetMetadata().GetName(); seen[name] {
			return invalid(field+".metadata.name", "%q is there twice", name)
		} else {
			seen[name] = true
		}
	}
	return nil
}

// mustBring is for RPCs whose callers must set a deadline (cri-api,
// CheckpointPod, RestorePod): without one they are refused.
func mustBring(time.Duration, any) time.Duration { return noDefault }

// asLongAs is for CheckpointContainer: the longer of the default and what is
// asked for, as the kubelet's client has it.
func asLongAs(b time.Duration, request any) time.Duration {
	if r, ok := request.(interface{ GetTimeout() int64 }); ok {
		return max(b, seconds(r.GetTimeout()))
	}
	return b
}

const noDefault = -1

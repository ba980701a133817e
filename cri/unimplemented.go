package cri

import (
	"maps"
	"path"
	"slices"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unimplemented are the RPCs that are registered and answer Unimplemented,
// each with what its caller should know. DESIGN.md lists them.
var unimplemented = map[string]string{
	runtime.RuntimeService_UpdateContainerResources_FullMethodName:  resizeHint,
	runtime.RuntimeService_UpdatePodSandboxResources_FullMethodName: resizeHint,

	runtime.RuntimeService_CheckpointContainer_FullMethodName: checkpointHint,
	runtime.RuntimeService_CheckpointPod_FullMethodName:       checkpointHint,
	runtime.RuntimeService_RestorePod_FullMethodName:          checkpointHint,
}

const (
	resizeHint     = "resources are fixed when a container is created; make a new one"
	checkpointHint = "pods and containers cannot be checkpointed or restored"
)

// Unimplemented names the RPCs that answer Unimplemented, sorted.
func Unimplemented() []string {
	var names []string
	for _, full := range slices.Collect(maps.Keys(unimplemented)) {
		names = append(names, path.Base(full))
	}
	slices.Sort(names)
	return names
}

// admit finds how an RPC is treated, or says that it is not served.
func admit(full string) (method, error) {
	if m, ok := methods[full]; ok {
		return m, nil
	}
	hint, known := unimplemented[full]
	if !known {
		hint = "this version of the runtime does not know it"
	}
	return method{}, messages.Errorf(messages.Unsupported, "%s is not implemented: %s", path.Base(full), hint)
}

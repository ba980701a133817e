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
	runtime.RuntimeService_Exec_FullMethodName:        "use ExecSync for a command without a terminal",
	runtime.RuntimeService_Attach_FullMethodName:      "read the container's log file instead",
	runtime.RuntimeService_PortForward_FullMethodName: "connect to the pod's address instead",
}

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

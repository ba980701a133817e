package cri

import (
	"fmt"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// validateExec checks a command to be served as a session.
func validateExec(r *runtime.ExecRequest) error {
	if len(r.GetCmd()) == 0 || r.GetCmd()[0] == "" {
		return invalid("cmd", "is empty: name the command to run")
	}
	return firstOf(
		validateID("container_id", r.GetContainerId()),
		validateNoNUL("cmd", r.GetCmd()),
		validateStreams(r),
	)
}

// validateAttach checks an attach.
func validateAttach(r *runtime.AttachRequest) error {
	return firstOf(validateID("container_id", r.GetContainerId()), validateStreams(r))
}

// validateStreams checks what cri-api says of both requests: one of the three at
// least, and a terminal has no stderr of its own.
func validateStreams(r interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
},
) error {
	if !r.GetStdin() && !r.GetStdout() && !r.GetStderr() {
		return invalid("stdin, stdout and stderr", "are all false: ask for one at least")
	}
	if r.GetTty() && r.GetStderr() {
		return invalid("stderr", "must be false with tty: a terminal has one output")
	}
	return nil
}

// validatePortForward checks the ports, of which there may be none: SPDY clients
// name them later.
func validatePortForward(r *runtime.PortForwardRequest) error {
	for i, port := range r.GetPort() {
		if port < 1 || port > 65535 {
			return invalid(fmt.Sprintf("port[%d]", i), "%d: must be from 1 to 65535", port)
		}
	}
	return validateID("pod_sandbox_id", r.GetPodSandboxId())
}

package messages

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPod starts a sandbox and answers with its id once it is ready. A second
// RunPod of the same name, namespace, uid and attempt joins the first.
type RunPod struct {
	Call
	Config  *runtime.PodSandboxConfig
	Handler string // name of a configured runtime handler, never empty
	ShmSize int64  // of /dev/shm in bytes; 0: the usual 64 MiB
}

// Answers says the reply is the pod's id.
func (RunPod) Answers(string) {}

// StopPod stops a pod's containers and gives back its network. Idempotent.
type StopPod struct {
	Call
	Pod string
}

// Answers says the reply is empty.
func (StopPod) Answers(None) {}

// RemovePod removes a pod, its containers and everything they hold. Idempotent.
type RemovePod struct {
	Call
	Pod string
}

// Answers says the reply is empty.
func (RemovePod) Answers(None) {}

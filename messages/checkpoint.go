package messages

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckpointContainer writes a checkpoint of a running container, which runs
// on, to an archive. After an error there is none.
type CheckpointContainer struct {
	Call
	Pod, Container string
	Location       string // absolute
}

// Answers says the reply is empty.
func (CheckpointContainer) Answers(None) {}

// About implements Addressed.
func (m CheckpointContainer) About() (pod, container string) { return m.Pod, m.Container }

// CheckpointPod writes one consistent checkpoint of all running containers of a
// pod to a directory. They are paused meanwhile, and run when it is answered.
type CheckpointPod struct {
	Call
	Pod        string
	Dir        string
	Containers []string // full ids; exactly those that run
}

// Answers says the reply is empty.
func (CheckpointPod) Answers(None) {}

// About implements Addressed.
func (m CheckpointPod) About() (pod, container string) { return m.Pod, "" }

// RestorePod makes a pod of a checkpoint.
type RestorePod struct {
	Call
	Dir        string
	Handler    string
	ShmSize    int64 // as in RunPod
	Config     *runtime.PodSandboxConfig
	Containers []*runtime.ContainerConfig
}

// Answers says the reply is a RestoredPod.
func (RestorePod) Answers(RestoredPod) {}

// RestoredPod is a pod whose containers are created and have not run.
type RestoredPod struct {
	Pod        string
	Containers map[string]string // name → id
}

package messages

import (
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container in a ready pod and answers with its id.
// A second one of the same name and attempt joins the first.
type CreateContainer struct {
	Call
	Pod    string
	Config *runtime.ContainerConfig
}

// Answers says the reply is the container's id.
func (CreateContainer) Answers(string) {}

// StartContainer starts a created container; on a running one it is a success.
type StartContainer struct {
	Call
	Pod, Container string
}

// Answers says the reply is empty.
func (StartContainer) Answers(None) {}

// StopContainer sends the stop signal, waits Grace, then kills. Idempotent. A
// later call with a shorter grace tightens the first.
type StopContainer struct {
	Call
	Pod, Container string
	Grace          time.Duration // 0: kill at once
}

// Answers says the reply is empty.
func (StopContainer) Answers(None) {}

// RemoveContainer kills if need be and removes. Idempotent.
type RemoveContainer struct {
	Call
	Pod, Container string
}

// Answers says the reply is empty.
func (RemoveContainer) Answers(None) {}

// ReopenLog makes the log writer of a running container use a new file; it is
// answered when the new file is in use.
type ReopenLog struct {
	Call
	Pod, Container string
}

// Answers says the reply is empty.
func (ReopenLog) Answers(None) {}

// ExecSync runs a command in a running container and captures its output.
type ExecSync struct {
	Call
	Pod, Container string
	Command        []string
	Timeout        time.Duration // 0: none
}

// Answers says the reply is an ExecResult.
func (ExecSync) Answers(ExecResult) {}

// ExecResult is what a command printed and how it ended.
type ExecResult struct {
	Stdout, Stderr []byte // each at most 16 MiB; the rest is discarded (CRI)
	ExitCode       int32
}

// ProcessStatus is where a container's init process is in its life.
type ProcessStatus string

// The statuses of a process.
const (
	ProcessCreated ProcessStatus = "created" // waits for Start
	ProcessRunning ProcessStatus = "running"
	ProcessExited  ProcessStatus = "exited"
	ProcessGone    ProcessStatus = "gone" // the monitor knows nothing of it
)

// ProcessState is the truth about a container's init process. It can be read
// at any time; an exit is a fact that is re-read, never only remembered.
type ProcessState struct {
	Pod, Container string
	Status         ProcessStatus
	Pid            int
	StartedAt      time.Time
	ExitedAt       time.Time
	ExitCode       int32 // 128+n when killed by signal n
	Signal         int   // the signal that ended it, or 0
	OOMKilled      bool
	// ExitUnknown is set when the kernel could not tell how the process
	// ended; the exit code then means nothing and is never invented.
	ExitUnknown bool
}

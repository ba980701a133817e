package messages

import (
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodState is a state of the sandbox actor; CRI's two are computed from it.
type PodState string

// The states of a sandbox.
const (
	PodStarting PodState = "starting"
	PodReady    PodState = "ready"
	PodNotReady PodState = "notReady"
	PodStopping PodState = "stopping"
	PodRemoving PodState = "removing"
)

// ContainerState is a state of the container actor; CRI's four are computed from it.
type ContainerState string

// The states of a container.
const (
	ContainerCreating ContainerState = "creating"
	ContainerCreated  ContainerState = "created"
	ContainerStarting ContainerState = "starting"
	ContainerRunning  ContainerState = "running"
	ContainerStopping ContainerState = "stopping"
	ContainerExited   ContainerState = "exited"
	ContainerRemoving ContainerState = "removing"
)

// Namespaces are the paths of a pod's pinned namespaces; empty: the node's own.
type Namespaces struct {
	Network string `json:"network,omitempty"`
	IPC     string `json:"ipc,omitempty"`
	UTS     string `json:"uts,omitempty"`
	PID     string `json:"pid,omitempty"`  // of the pod's pause process, when shared
	User    string `json:"user,omitempty"` // owns the network, IPC and UTS namespaces beside it
}

// Labels are SELinux labels; empty: none.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"` // of the files
}

// Edge is one change of state, for the timeline.
type Edge struct {
	At       time.Time     `json:"at"`
	From, To string        `json:",omitempty"`
	Step     string        `json:"step,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	Err      string        `json:"err,omitempty"`
}

// Activity is what an actor is doing now.
type Activity struct {
	Step  string    `json:"step,omitempty"` // the step a worker is busy with, or empty
	Since time.Time `json:"since"`          // of the state, or of the step
	Error string    `json:"error,omitempty"`
}

// PodSnapshot is a sandbox as seen from outside. Immutable once published.
type PodSnapshot struct {
	ID         string
	Config     *runtime.PodSandboxConfig
	Handler    string
	CreatedAt  time.Time
	State      PodState
	Reason     string // why it is not ready, for people
	Activity   Activity
	Timeline   []Edge
	Namespaces Namespaces
	IPs        []string // the first is the pod's primary address
	Cgroup     string   // parent of its containers' cgroups
	Listed     bool     // false until RunPod has succeeded or failed half-way
	Past       bool     // the node was restarted since it was made
}

// CRIState is the state as CRI knows it.
func (p *PodSnapshot) CRIState() runtime.PodSandboxState {
	if p.State == PodReady {
		return runtime.PodSandboxState_SANDBOX_READY
	}
	return runtime.PodSandboxState_SANDBOX_NOTREADY
}

// ContainerSnapshot is a container as seen from outside. Immutable once published.
type ContainerSnapshot struct {
	ID, Pod  string
	Config   *runtime.ContainerConfig
	ImageID  string
	ImageRef string // the name or digest the image was found by
	// VolumeImages are the ids of the images it has mounted as volumes.
	VolumeImages []string
	Mounts       []*runtime.Mount // as asked for; those of an image name it by its id too
	StopSignal   string
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	State        ContainerState
	Pid          int
	ExitCode     int32
	Reason       string // Completed, Error, OOMKilled, seccomp killed, StartError, Unknown
	Message      string
	LogPath      string // absolute, or empty
	Activity     Activity
	Timeline     []Edge
	User         *runtime.ContainerUser
	Listed       bool // false until it was created
}

// CRIState is the state as CRI knows it.
func (c *ContainerSnapshot) CRIState() runtime.ContainerState {
	switch c.State {
	case ContainerCreating, ContainerCreated, ContainerStarting:
		return runtime.ContainerState_CONTAINER_CREATED
	case ContainerRunning, ContainerStopping:
		return runtime.ContainerState_CONTAINER_RUNNING
	}
	return runtime.ContainerState_CONTAINER_EXITED
}

// Condition is one of the node's conditions.
type Condition struct {
	OK              bool
	Reason, Message string
}

// View is read access to what the actors have published. Nothing in it waits
// for an actor; every value is immutable.
type View interface {
	// Pods are all sandboxes that are listed, oldest first.
	Pods() []*PodSnapshot
	// Pod finds one by id or unambiguous prefix; the error's kind is NotFound
	// or Invalid (ambiguous).
	Pod(idOrPrefix string) (*PodSnapshot, error)
	// Containers are all containers that are listed, oldest first.
	Containers() []*ContainerSnapshot
	Container(idOrPrefix string) (*ContainerSnapshot, error)
	// ContainersOf are the listed containers of a pod (full id).
	ContainersOf(pod string) []*ContainerSnapshot
	// Everything is all there is, also what is not listed because it is only
	// being made: for introspection, oldest pod first, its containers behind it.
	Everything() ([]*PodSnapshot, map[string][]*ContainerSnapshot)
	Images() []Image
	// Image finds one by id, id prefix, name, or digest reference.
	Image(ref string) (Image, bool)
	Filesystem() Filesystem
	// Network and Runtime are the node's two required conditions.
	Network() Condition
	Runtime() Condition
	// Pulls are those under way, EndedPulls the last few that have ended; both
	// the oldest first.
	Pulls() []PullProgress
	EndedPulls() []PullProgress
	// Tree is every actor there is.
	Tree() []ActorInfo
}

// ActorInfo is one line of the actor tree.
type ActorInfo struct {
	Path     string
	Kind     string
	State    string
	Since    time.Time
	Step     string
	Mailbox  int
	Restarts int
	Owns     []string // pid:…, netns:…, mount:…, ip:…
}

// Event is something that happened to a container or pod.
type Event struct {
	Type      runtime.ContainerEventType
	ID        string // of the container, or of the pod for sandbox events
	Pod       *PodSnapshot
	Container []*ContainerSnapshot
	At        time.Time
}

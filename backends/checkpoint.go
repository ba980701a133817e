package backends

import (
	"context"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Checkpointer is the part of Runtime that pauses and captures processes.
type Checkpointer interface {
	// Freeze stops all processes of running containers, all or none of them.
	// They go on with Thaw, after limit, or when the connection to the monitor
	// ends: nothing stays frozen because its daemon died.
	Freeze(ctx context.Context, pod string, containers []string, limit time.Duration) error
	// Thaw lets them go on; those that are not frozen do already.
	Thaw(ctx context.Context, pod string, containers []string) error
	// Dump writes CRIU's images of a running container to dir/checkpoint, with
	// dump.log and stats-dump in dir; it runs on, or stays frozen. Where CRIU is
	// missing or cannot do it the kind is Precondition, and the error says why.
	Dump(ctx context.Context, pod, container, dir string) error
}

// Checkpoints keeps what checkpoints are made of. What an end of the daemon
// left half done is removed when the next one begins.
type Checkpoints interface {
	// Begin checks the place a checkpoint is to go to and gives a directory for
	// each container's images.
	Begin(ctx context.Context, r CheckpointRequest) (dirs []string, err error)
	// Finish makes the checkpoint of what is in the directories, whole or not at
	// all, and removes what is not part of it.
	Finish(ctx context.Context, r CheckpointRequest) error
	// Discard removes everything that Begin and Finish made. It can be repeated.
	Discard(ctx context.Context, r CheckpointRequest) error
	// Check says whether a pod's checkpoint fits what it is to be restored as;
	// kind Invalid when it does not.
	Check(ctx context.Context, r RestoreRequest) error

	// Holder: what Unpack made for containers, until Forget.
	Holder
	// Unpack takes one container out of a pod's checkpoint: CRIU's images into a
	// directory, which it gives; what the container had written and deleted into
	// its mounted root. The archive is not believed: what leads out of the root,
	// device nodes and more bytes than the archive has are refused (Invalid).
	Unpack(ctx context.Context, r UnpackRequest) (images string, err error)
	// Forget removes the directory. It can be repeated.
	Forget(ctx context.Context, pod, container string) error
}

// UnpackRequest names a container of a pod's checkpoint and what it becomes.
type UnpackRequest struct {
	Dir            string // of the pod's checkpoint
	Name           string // the container's in it
	Pod, Container string // ids of the new ones
	Rootfs         string // mounted
}

// CheckpointRequest is a checkpoint to be made: of one container as an archive
// (Archive), or of all running ones of a pod in a directory (Dir).
type CheckpointRequest struct {
	Pod        string
	Archive    string // path of the archive, or
	Dir        string // an empty directory
	PodConfig  *runtime.PodSandboxConfig
	Handler    string
	Containers []CheckpointedContainer
}

// CheckpointedContainer is what is to be known of a container to restore it.
type CheckpointedContainer struct {
	ID        string
	Config    *runtime.ContainerConfig
	Image     messages.Image
	CreatedAt time.Time
	StartedAt time.Time
}

// RestoreRequest names a pod's checkpoint and what it is to become.
type RestoreRequest struct {
	Dir        string
	Handler    string
	Config     *runtime.PodSandboxConfig
	Containers []*runtime.ContainerConfig
}

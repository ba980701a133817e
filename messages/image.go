package messages

import (
	"log/slog"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Auth is what a caller shows a registry. It never appears in a log.
type Auth struct {
	Username, Password string
	IdentityToken      string
	RegistryToken      string
}

// LogValue keeps secrets out of logs (protoactor logs dead letters whole).
func (Auth) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// String keeps secrets out of %v.
func (Auth) String() string { return "[redacted]" }

// PullImage pulls an image and answers with its id.
type PullImage struct {
	Call
	Ref       string // as the caller wrote it; with a Source the name it gets, or "" for those it brings
	Auth      *Auth  // nil: what the node's auth files say
	Namespace string // of the pod it is for: chooses the signature policy; "": the node's
	// Source is where the image is when not in a registry: "docker-archive:/path",
	// "oci:/dir", … It makes the daemon read files of the node: only its own
	// socket may set it, never CRI.
	Source string
}

// Answers says the reply is the image's id.
func (PullImage) Answers(string) {}

// RemoveImage removes an image by name, digest reference or id. Idempotent;
// refused while a container uses it.
type RemoveImage struct {
	Call
	Ref string
}

// Answers says the reply is empty.
func (RemoveImage) Answers(None) {}

// RefreshImages re-reads the store (another tool may have changed it) and
// answers when the published list is new.
type RefreshImages struct{ Call }

// Answers says the reply is empty.
func (RefreshImages) Answers(None) {}

// Image is an image in the store. Immutable.
type Image struct {
	ID          string // of an image its config's digest in hex, without "sha256:"
	RepoTags    []string
	RepoDigests []string
	Size        uint64 // bytes
	Layers      []ImageLayer
	Pinned      bool
	Config      ImageConfig
	Artifact    bool // an OCI artifact: ID is its manifest's digest, and it can only be mounted
}

// ImageLayer is a layer in the store; images that have the same one share it.
type ImageLayer struct {
	ID   string // of the store
	Size int64  // unpacked; -1: not known
}

// ImageConfig is the part of the OCI image configuration a container is made from.
type ImageConfig struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	Volumes    []string
	StopSignal string
	Labels     map[string]string
}

// Filesystem is the use of one file system.
type Filesystem struct {
	Mountpoint string
	UsedBytes  uint64
	Inodes     uint64
	At         time.Time
}

// CRIImage is the image as CRI shows it.
func (i Image) CRIImage() *runtime.Image {
	img := &runtime.Image{
		Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests, Size: i.Size, Pinned: i.Pinned,
		Spec: &runtime.ImageSpec{Image: i.ID},
	}
	img.Uid, img.Username = splitUser(i.Config.User)
	return img
}

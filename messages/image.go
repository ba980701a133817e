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

// CheckImages reads the whole image store again, for damage. Those who ask
// while a check is under way get its answer.
type CheckImages struct {
	Call
	Repair bool // pull the damaged images again
}

// Answers says the reply is a CheckReport.
func (CheckImages) Answers(CheckReport) {}

// CheckReport is what a check has found. Immutable.
type CheckReport struct {
	Layers  int // that were read
	Damage  []Damage
	Repairs []Repair // none unless they were asked for
}

// Damage is a layer that is not what it was recorded as, or the data of an
// image (then there is no Layer).
type Damage struct {
	Layer       string // its id in the store
	Images      []DamagedImage
	What        string
	Quarantined bool // put aside: its images are not listed until they are pulled again
}

// Names are those of the images, for people.
func (d Damage) Names() []string {
	names := make([]string, 0, len(d.Images))
	for _, image := range d.Images {
		names = append(names, image.Name)
	}
	return names
}

// DamagedImage is an image that has a damaged layer.
type DamagedImage struct {
	ID   string
	Name string // a tag if it has one, else name and digest, else the id
	Ref  string // the name and digest that bring this very image; empty when it has none
}

// Repair is how the pull of a damaged image ended.
type Repair struct {
	Image DamagedImage
	Err   string // empty: it is whole again
}

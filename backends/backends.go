// Package backends holds the interfaces through which the actors touch the
// node, one per concern. The real ones are in the folders beside this file,
// each alone in its package; backends/fake is a node in memory, and both pass
// backends/conformance.
//
// Rules for all of them: a call may block and is only made by a worker, never
// by an actor; it ends soon after its context does; a second call with the
// same arguments gives the same result; a call that takes something back
// (Unpin, Detach, Remove…) is a success when there is nothing to take back,
// also when what took it never ran or ran half. Everything made carries the
// pod's id in its name, so that Held finds it without a record.
package backends

import (
	"context"
	"net/netip"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is all backends of one node.
type Node struct {
	Namespaces  Namespaces
	Network     Network
	Files       Files
	Cgroups     Cgroups
	Rootfs      Rootfs
	Volumes     Volumes
	Bundles     Bundles
	Runtime     Runtime
	Images      Images
	Checkpoints Checkpoints
	Journal     Journal
	Plugins     Plugins
}

// Holders are the backends that hold something on the node, in the order in
// which leftovers must be dropped: processes first, records last.
func (n *Node) Holders() []Holder {
	return []Holder{n.Runtime, n.Checkpoints, n.Bundles, n.Volumes, n.Rootfs, n.Network, n.Files, n.Namespaces, n.Cgroups, n.Journal}
}

// HeldProcess is the kind of what must go before anything else of its pod.
const HeldProcess = "process"

// Held is something a backend holds under our names.
type Held struct {
	Kind      string // HeldProcess, mount, netns, …
	Pod       string // always set
	Container string // set when it is a container's
	Name      string // path or address, for people
}

// Holder can say what it holds and drop it without any record of it.
type Holder interface {
	Held(ctx context.Context) ([]Held, error)
	Drop(ctx context.Context, h Held) error
}

// Namespaces makes and pins the namespaces of a pod by bind mounts named after
// it; no process is needed to keep them.
type Namespaces interface {
	Holder
	Forwarder
	Pin(ctx context.Context, r NamespaceRequest) (messages.Namespaces, error)
	Unpin(ctx context.Context, pod string) error
	// Pinned says whether all that Pin gave for the pod is still there: a reboot
	// takes it, whether or not it takes the files that were mounted on.
	Pinned(ctx context.Context, pod string, n messages.Namespaces) (bool, error)
}

// NamespaceRequest says which namespaces a pod gets of its own.
type NamespaceRequest struct {
	Pod               string
	Network, IPC, UTS bool              // false: the node's own
	Hostname          string            // set in a UTS namespace of its own
	Sysctls           map[string]string // set in the namespaces they belong to
	// User asks for a user namespace with this mapping, which then owns the
	// others: only so can a container's root mount sysfs or set its sysctls.
	User *messages.UserNamespace
}

// Network attaches pods by CNI.
type Network interface {
	Holder
	// Attach brings up loopback and runs CNI ADD. An error may leave something
	// behind: Detach is called after it.
	Attach(ctx context.Context, r NetworkRequest) (NetworkResult, error)
	// Detach runs CNI DEL, also when the namespace or the configuration it was
	// attached with has gone (the cached one is used).
	Detach(ctx context.Context, r NetworkRequest) error
	// Status is nil when pods can be attached, else says why not (CNI STATUS).
	Status(ctx context.Context) error
	// GC tells the plugins which pods are valid (CNI GC); they free what they
	// hold for others. valid is asked while no Attach is under way, and Attach
	// waits meanwhile, so that no pod is missed; kind Busy when one is.
	GC(ctx context.Context, valid func() []string) error
	// SetRanges keeps the ranges that the addresses of pods attached from now
	// on are to be from, for plugins that can be told (the CNI capability
	// ipRanges). A later daemon knows them too.
	SetRanges(ctx context.Context, ranges []netip.Prefix) error
	// Watch calls changed when the configuration may have changed; it returns
	// when ctx ends or watching is no longer possible.
	Watch(ctx context.Context, changed func()) error
}

// NetworkRequest names a pod to the network.
type NetworkRequest struct {
	Pod, Name, Namespace, UID string
	NetNS                     string // path
	Cgroup                    string
	PortMappings              []*runtime.PortMapping
	DNS                       *runtime.DNSConfig
	Annotations               map[string]string
}

// NetworkResult is what a pod got.
type NetworkResult struct {
	IPs []string `json:"ips"` // without mask, in the plugin's order
}

// Files are the small files every container of a pod shares.
type Files interface {
	Holder
	Make(ctx context.Context, r FilesRequest) (PodFiles, error)
	Remove(ctx context.Context, pod string) error
}

// FilesRequest says what is in them.
type FilesRequest struct {
	Pod      string
	Hostname string
	DNS      *runtime.DNSConfig // nil: the node's resolv.conf
	HostIPC  bool               // then /dev/shm is the node's
	// User: they belong to the root of this user namespace. nil: to the node's.
	User       *messages.UserNamespace
	ShmSize    int64  // bytes; 0: 64 MiB
	MountLabel string // SELinux label of them; empty: none
}

// PodFiles are the host paths to mount into containers.
type PodFiles struct {
	ResolvConf string `json:"resolvConf"`
	Hostname   string `json:"hostname"`
	Shm        string `json:"shm"`
}

// Cgroups keeps the parent cgroup of a pod's containers.
type Cgroups interface {
	Holder
	// Make gives the parent that the pod's containers go under: the one the
	// kubelet asked for (which is the kubelet's to make and remove; it need not
	// exist yet, starting a container makes it), or one of ours when it asked
	// for none. The form is the cgroup manager's: a path ("/kubepods/pod1") or
	// a systemd slice ("kubepods.slice"); another form, or one with "..", is an
	// error of kind Invalid.
	Make(ctx context.Context, pod, requested string) (parent string, err error)
	Remove(ctx context.Context, pod string) error
	// Update limits a pod's cgroup that Make made for want of another; one the
	// kubelet asked for is the kubelet's to limit, and left as it is. After an
	// error nothing has changed.
	Update(ctx context.Context, pod, parent string, r *runtime.LinuxContainerResources) error
}

// Rootfs mounts a container's root file system over its image's layers.
type Rootfs interface {
	Holder
	// Mount gives the path of the mounted root.
	Mount(ctx context.Context, r RootfsRequest) (path string, err error)
	// Unmount unmounts it and removes what the container wrote.
	Unmount(ctx context.Context, pod, container string) error
}

// RootfsRequest names the image.
type RootfsRequest struct {
	Pod, Container string
	ImageID        string
	ReadOnly       bool
	MountLabel     string // SELinux context of all files; empty: none
	// User: the image's files appear as those of this user namespace, without
	// a copy (layers mounted with shifted ids); what the container writes is
	// the mapped users' on the node too. nil: no mapping.
	User *messages.UserNamespace
}

// Bundles writes the OCI bundle of a container.
type Bundles interface {
	Holder
	// Write checks mount sources, resolves users in the root file system,
	// builds the OCI runtime spec and writes it.
	Write(ctx context.Context, r BundleRequest) (Bundle, error)
	Remove(ctx context.Context, pod, container string) error
	BundleUpdater
	// Labels gives the SELinux labels of a container, empty where SELinux is
	// off. The first call for a pod takes a level for it that no other pod of
	// the node has; it is held until Release.
	Labels(ctx context.Context, r LabelRequest) (messages.Labels, error)
	Release(ctx context.Context, pod string) error
}

// LabelRequest names what is to be labelled.
type LabelRequest struct {
	Pod       string
	PodConfig *runtime.PodSandboxConfig
	Config    *runtime.ContainerConfig // nil: the pod itself and its pause process
}

// BundleRequest is all a spec is made from.
type BundleRequest struct {
	Pod, Container string
	PodConfig      *runtime.PodSandboxConfig
	Config         *runtime.ContainerConfig // nil: the pod's pause process
	Image          messages.ImageConfig
	Rootfs         string // empty for the pause process
	Namespaces     messages.Namespaces
	Labels         messages.Labels
	TargetPIDNS    string // path of the PID namespace to share when the mode is TARGET
	Files          PodFiles
	Volumes        VolumePaths // Images in the order of the mounts that name one
	CgroupParent   string
	Handler        string
}

// Bundle is a written bundle.
type Bundle struct {
	Dir        string                 `json:"dir"` // holds config.json
	LogPath    string                 `json:"logPath,omitempty"`
	StopSignal string                 `json:"stopSignal,omitempty"` // e.g. SIGTERM
	User       *runtime.ContainerUser `json:"user,omitempty"`
	Relabel    []Relabel              `json:"relabel,omitempty"` // before it starts
	// Adjusted are the resources that plugins gave it instead of those asked for.
	Adjusted *runtime.LinuxContainerResources `json:"adjusted,omitempty"`
}

// Runtime runs container processes. The real one is the connection to
// troupe-monitor, the parent of all of them, which outlives the daemon.
type Runtime interface {
	Holder
	Streamer
	// Connect makes sure that the monitor runs, tells the state of every
	// process it has, then calls fact for each exit, and returns when the
	// connection ends. ready is called once the states have been told.
	Connect(ctx context.Context, fact func(messages.ProcessState), ready func()) error
	// Create makes the init process of a container up to the point where
	// Start lets it run the user's command. A command that does not exist is
	// found by Start.
	Create(ctx context.Context, r ProcessRequest) (messages.ProcessState, error)
	Start(ctx context.Context, pod, container string) (messages.ProcessState, error)
	// Signal sends a signal ("SIGTERM") to the init process, or to all
	// processes of the container. No such process is a success.
	Signal(ctx context.Context, pod, container, signal string, all bool) error
	// State never fails for an unknown container: its status is ProcessGone.
	State(ctx context.Context, pod, container string) (messages.ProcessState, error)
	// Delete kills what is left and forgets the container.
	Delete(ctx context.Context, pod, container string) error
	// Exec runs a command and captures its output. A timeout kills the
	// command and is an error of kind Deadline.
	Exec(ctx context.Context, r ExecRequest) (messages.ExecResult, error)
	ReopenLog(ctx context.Context, pod, container string) error
	Updater
	Checkpointer
}

// ProcessRequest names a bundle to run.
type ProcessRequest struct {
	Pod, Container string
	Bundle         string // directory with config.json
	LogPath        string // CRI log file; empty: output is discarded
	Stdin          bool   // keep a pipe open for attach
	StdinOnce      bool
	TTY            bool
	Pause          bool // the pod's pause process
	Handler        string
	// Images is a directory with CRIU's images in checkpoint: Start restores the
	// processes in it instead of running the bundle's command. They are refused
	// (Precondition) when they have more rights than the bundle gives.
	Images string
}

// ExecRequest is a command to run in a running container.
type ExecRequest struct {
	Pod, Container string
	Command        []string
	Timeout        time.Duration // 0: none
}

// Images is the image store and the way to registries.
type Images interface {
	// Resolve asks the registry for the manifest of a reference (a manifest
	// list is resolved for this machine) and checks it against the policy.
	Resolve(ctx context.Context, r PullRequest) (Manifest, error)
	// Fetch makes one layer ready for Commit: downloaded, verified by its
	// digest, and unpacked beside the store's layers. A download that was cut
	// goes on where it was, also in a later call or a later daemon. When
	// nothing comes for the configured time it ends with kind Deadline. A layer
	// that the store has already, or that is ready, is a success at once.
	Fetch(ctx context.Context, r PullRequest, m Manifest, l Layer, progress func(Progress)) error
	// Apply puts the first n layers, which have been fetched, into the store
	// while others still come, so that Commit has less to do. Never needed: what
	// it has not done, Commit does. Layers whose pull then fails stay for a
	// while, as fetched ones do.
	Apply(ctx context.Context, r PullRequest, m Manifest, n int) error
	// Commit puts the fetched layers into the store, in order, and records the
	// image. What went away since it was fetched is fetched again.
	Commit(ctx context.Context, r PullRequest, m Manifest) (messages.Image, error)
	// Allowed asks the signature policy of a pod's namespace about an image that
	// is here, by the signatures that came with it: another namespace may have
	// pulled it. Kind SignatureValidationFailed when it says no.
	Allowed(ctx context.Context, u ImageUse) error
	List(ctx context.Context) ([]messages.Image, error)
	// Unlisted finds an image that is recorded but not listed, because it is
	// damaged: by its id or by a full name (registry/name:tag or @digest). "":
	// there is none.
	Unlisted(ctx context.Context, ref string) (id string, err error)
	// Remove removes all names of the image, its record, and the layers that
	// nothing else uses. NotFound is a success.
	Remove(ctx context.Context, id string) error
	Usage(ctx context.Context) (messages.Filesystem, error)
	// Check reads all layers and the images' data again and gives those that
	// are not what they were recorded as, having put them aside: their images
	// are not listed any more, a pull fetches what is damaged and nothing else,
	// and containers that have it mounted keep it. Pulls and containers go on
	// meanwhile. progress is told how many layers of how many were read.
	Check(ctx context.Context, progress func(done, total int)) ([]messages.Damage, error)
	// Sweep removes what pulls that failed have left, when nobody has come back
	// for it, and what Check has put aside and no container can have mounted:
	// users has, for each image that containers use, when the oldest of those
	// was made.
	Sweep(ctx context.Context, users map[string]time.Time) error
}

// PullRequest is one caller's wish for an image.
type PullRequest struct {
	Ref       string
	Auth      *messages.Auth
	Namespace string // of the pod it is for: chooses the signature policy; "": the node's
	Source    string // where its bytes are when not in a registry: "docker-archive:/path", "oci:/dir", …; only the daemon's own socket sets it
}

// ImageUse is an image that a pod is going to run or mount.
type ImageUse struct {
	ImageID   string
	Name      string // as the pod names it; an id or "" where the caller does not know
	Namespace string
}

// Progress is how far Fetch is with one layer.
type Progress struct {
	Received int64  // bytes of the blob that are here, those of an earlier try included
	Unpacked int64  // bytes of the uncompressed layer that were unpacked
	Trouble  string // why the download is being tried again; "" when it goes well
}

// Manifest is what a reference resolved to.
type Manifest struct {
	Ref      string // full: registry/name:tag or registry/name@digest
	Digest   string // of the manifest the registry named (of the list, if it is one)
	ConfigID string // image id
	Layers   []Layer
	Present  bool // the store has this very image: nothing is to be fetched
	Opaque   any  // what the backend needs to go on; actors do not look
}

// Layer is one layer of a manifest.
type Layer struct {
	Digest    string // of the blob as served, "sha256:…"
	DiffID    string // of the uncompressed layer
	Size      int64  // of the blob; -1 when the manifest does not say
	MediaType string
	// Annotations are the manifest's for this layer: the wrapped keys of an
	// encrypted one, the table of contents of a zstd:chunked one.
	Annotations map[string]string
}

// Journal keeps the records of pods and containers: one small file each,
// replaced by an atomic rename.
type Journal interface {
	Holder
	// Save replaces the record. An error of kind NoSpace says that it did not
	// and that the one before stands; after another one either may be there.
	Save(ctx context.Context, k Key, data []byte) error
	Remove(ctx context.Context, k Key) error
	// Load gives all whole records. A torn or foreign one is moved to
	// quarantine and named in damaged; it never stops the daemon. What a
	// container has without a record is named each time.
	Load(ctx context.Context) (records []Record, damaged []string, err error)
	// LoadPod is Load of one pod and its containers.
	LoadPod(ctx context.Context, pod string) (records []Record, damaged []string, err error)
}

// Key names a record: a pod's, or a container's when Container is set.
type Key struct{ Pod, Container string }

// Record is a stored record.
type Record struct {
	Key
	Data []byte
}

package backends

import "context"

// Volumes makes what a container mounts besides its root and the node's own
// directories: images (cri-api, Mount.image) and the directories an image
// declares as VOLUME. Everything it makes is the container's own and goes with
// it; images must stay in the store as long as they are mounted.
type Volumes interface {
	Holder
	// Mount makes all of them. An image that cannot be mounted, or a sub path
	// that is not in it, is an error of kind ImageVolumeMountFailed.
	Mount(ctx context.Context, r VolumesRequest) (VolumePaths, error)
	Unmount(ctx context.Context, pod, container string) error
	// Relabel gives a directory tree of the node the SELinux label; where it
	// has it already it is not written again. It can take hours (a volume of
	// millions of files) and ends soon after ctx; progress hears now and then
	// how many files have been seen. A node without SELinux has nothing to do.
	// Nothing undoes it: a tree labelled in part is labelled the rest of the
	// way next time.
	Relabel(ctx context.Context, r Relabel, progress func(files int64)) error
}

// VolumesRequest names what a container mounts.
type VolumesRequest struct {
	Pod, Container string
	Images         []ImageVolume
	// Anonymous are the VOLUMEs of the container's own image that get a
	// directory outside its root; what the image has there is copied into it.
	Anonymous  []string
	Rootfs     string // where that image is mounted
	MountLabel string
}

// ImageVolume is an image, or a part of it, to be mounted.
type ImageVolume struct {
	ImageID string `json:"imageID"`
	SubPath string `json:"subPath,omitempty"` // within the image; empty: all of it
}

// VolumePaths are paths of the node to be mounted into the container.
type VolumePaths struct {
	Images    []string          `json:"images,omitempty"`    // in the order of the request
	Anonymous map[string]string `json:"anonymous,omitempty"` // by path in the container
}

// Relabel is a directory tree of the node that gets a label.
type Relabel struct {
	Path  string `json:"path"`
	Label string `json:"label"`
	// IfTopDiffers: nothing is done when the top directory has the label
	// (CRI-O's annotation io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel).
	IfTopDiffers bool `json:"ifTopDiffers,omitempty"`
}

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Volumes mounts images as volumes and makes directories for VOLUMEs, both
// below Root/pods/<pod>/containers/<id>/volumes:
//
//	image-<n>      a read-only overlay of the n-th image's layers
//	anonymous-<n>  a directory for the n-th VOLUME
//
// Each container has mounts of its own. The layers are shared in any case, a
// mount costs next to nothing, and nobody has to count who uses it.
type Volumes struct {
	root   *Rootfs
	labels labeller // nil: the node has no SELinux
	log    *slog.Logger
}

var _ backends.Volumes = (*Volumes)(nil)

// NewVolumes makes the volumes of the containers whose roots r mounts.
func NewVolumes(r *Rootfs) *Volumes {
	return &Volumes{root: r, labels: nodeLabels(), log: r.log}
}

const (
	volumesDir = "volumes"
	emptyDir   = "empty"
)

func (v *Volumes) dir(pod, container string) (string, error) {
	p, err := v.root.place(pod, container)
	return filepath.Join(p.dir, volumesDir), err
}

// Mount implements backends.Volumes.
func (v *Volumes) Mount(ctx context.Context, q backends.VolumesRequest) (backends.VolumePaths, error) {
	none := backends.VolumePaths{}
	dir, err := v.dir(q.Pod, q.Container)
	if err != nil {
		return none, err
	}
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("volumes of %.12s: %w", q.Container, err)
	}
	if !v.root.cfg.BindVolumes {
		q.Anonymous = nil
	}
	made, err := v.mount(ctx, dir, q)
	if err != nil {
		return none, errors.Join(err, v.clear(context.WithoutCancel(ctx), dir))
	}
	return made, nil
}

func (v *Volumes) mount(ctx context.Context, dir string, q backends.VolumesRequest) (made backends.VolumePaths, err error) {
	at := map[string]string{} // one mount for all the parts of an image
	for i, image := range q.Images {
		mount, mounted := at[image.ImageID]
		if !mounted {
			mount = filepath.Join(dir, "image-"+strconv.Itoa(i))
			if err := v.mountImage(ctx, dir, mount, image.ImageID, q.MountLabel); err != nil {
				return made, fmt.Errorf("image volume %s: %w", image.ImageID, err)
			}
			at[image.ImageID] = mount
		}
		source, err := within(mount, image.SubPath)
		if err != nil {
			return made, fmt.Errorf("image volume %s: %w", image.ImageID, err)
		}
		made.Images = append(made.Images, source)
	}
	for i, volume := range q.Anonymous {
		own := filepath.Join(dir, "anonymous-"+strconv.Itoa(i))
		if err := v.makeAnonymous(ctx, own, q.Rootfs, volume); err != nil {
			return made, fmt.Errorf("volume %s of the image: %w", volume, classified(err))
		}
		if made.Anonymous == nil {
			made.Anonymous = map[string]string{}
		}
		made.Anonymous[volume] = own
	}
	return made, nil
}

// mountImage mounts an image's layers read-only. What the volume must not allow
// besides is set here too, so that it holds whoever mounts it on.
func (v *Volumes) mountImage(ctx context.Context, dir, mount, image, label string) error {
	if mounted, err := mountinfo.Mounted(mount); err == nil && mounted {
		return nil
	}
	layers, err := v.root.cfg.Layers(ctx, image)
	if err != nil {
		return messages.Errorf(messages.ImageVolumeMountFailed, "%w", err)
	}
	empty := filepath.Join(dir, emptyDir)
	for _, d := range []string{empty, mount} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return messages.Errorf(messages.ImageVolumeMountFailed, "%w", err)
		}
	}
	// Overlay wants two directories at least when nothing is written to.
	o := overlay{lowers: append(layers[:len(layers):len(layers)], empty), label: label, options: []string{"ro", "nodev", "nosuid"}}
	if err := o.mount(mount); err != nil {
		return messages.Errorf(messages.ImageVolumeMountFailed, "%w", err)
	}
	return nil
}

// within finds a sub path in a mounted image as a process in it would: links
// are followed with the image as "/", so that none leads out of it. The image
// cannot change, so what is found here is what is mounted later.
func within(mount, sub string) (string, error) {
	if sub == "" {
		return mount, nil
	}
	if !filepath.IsLocal(sub) {
		return "", messages.Errorf(messages.Invalid, "image_sub_path %q: must be a relative path that stays in the image", sub)
	}
	handle, err := pathrs.OpenInRoot(mount, sub)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", messages.Errorf(messages.ImageVolumeMountFailed, "image_sub_path %q does not exist in the image", sub)
	}
	if err != nil {
		return "", messages.Errorf(messages.ImageVolumeMountFailed, "image_sub_path %q: %w", sub, err)
	}
	defer func() { _ = handle.Close() }()
	info, err := handle.Stat()
	if err != nil {
		return "", messages.Errorf(messages.ImageVolumeMountFailed, "image_sub_path %q: %w", sub, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return "", messages.Errorf(messages.ImageVolumeMountFailed, "image_sub_path %q is neither a directory nor a regular file", sub)
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()))
	if err == nil && real != mount && !strings.HasPrefix(real, mount+"/") {
		err = fmt.Errorf("it was found at %s, outside the image", real)
	}
	if err != nil {
		return "", messages.Errorf(messages.ImageVolumeMountFailed, "image_sub_path %q: %w", sub, err)
	}
	return real, nil
}

// makeAnonymous makes the directory of a VOLUME, with what the image has there,
// under a name that only a whole one has.
func (v *Volumes) makeAnonymous(ctx context.Context, own, rootfs, volume string) error {
	if _, err := os.Lstat(own); err == nil {
		return nil
	}
	half := own + ".half"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
		return err
	}
	if err := copyFromRoot(ctx, rootfs, path.Join("/", volume), half); err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	return os.Rename(half, own)
}

// Unmount implements backends.Volumes.
func (v *Volumes) Unmount(ctx context.Context, pod, container string) error {
	dir, err := v.dir(pod, container)
	if err != nil {
		return err
	}
	if err := v.clear(ctx, dir); err != nil {
		return fmt.Errorf("volumes of %.12s: %w", container, err)
	}
	return nil
}

// clear undoes a Mount, however far it came. Nothing is deleted while anything
// is mounted: it would be deleted from the image.
func (v *Volumes) clear(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "image-") {
			at := filepath.Join(dir, e.Name())
			if err := v.root.unmount(ctx, at); err != nil {
				return err
			}
			if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing mount point: %w", err)
			}
		}
	}
	if err := removeAll(ctx, dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // the last one to leave succeeds
	return nil
}

// Held are the containers that have volumes.
func (v *Volumes) Held(ctx context.Context) ([]backends.Held, error) {
	dirs, err := filepath.Glob(filepath.Join(glob(v.root.root), "pods", "*", "containers", "*", volumesDir))
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	var held []backends.Held
	for _, dir := range dirs {
		container := filepath.Base(filepath.Dir(dir))
		pod := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir))))
		if backends.IsOurs(pod) && backends.IsOurs(container) {
			held = append(held, backends.Held{Kind: "volumes", Pod: pod, Container: container, Name: dir})
		}
	}
	return held, ctx.Err()
}

// Drop removes a container's volumes without a record of them.
func (v *Volumes) Drop(ctx context.Context, h backends.Held) error {
	if err := v.Unmount(ctx, h.Pod, h.Container); err != nil {
		return err
	}
	pod := filepath.Join(v.root.root, "pods", h.Pod)
	_ = os.Remove(filepath.Join(pod, "containers")) // each only when empty
	_ = os.Remove(pod)
	return nil
}

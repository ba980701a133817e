// Package rootfs mounts a container's root file system: one overlay directly
// over the directories of its image's layers. What the container writes is in
// a directory of its own, so that the thousandth container costs what the
// first did (the storage library rewrites an index of all layers for each).
//
// With a user namespace, the layers are mounted with shifted ids below the
// overlay (idmap.go), so that one copy of an image serves every mapping.
//
// A container's files are Root/pods/<pod>/containers/<id>/{upper,work,rootfs}:
// what it wrote, overlay's scratch directory, and the mount point.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says where and over what to mount.
type Config struct {
	Root string // the daemon's state directory; not on an overlay itself
	// Layers gives an image's directories, the uppermost first. They must stay
	// as long as a container of the image is mounted.
	Layers func(ctx context.Context, imageID string) ([]string, error)
	// MountOptions are options of overlayfs ("metacopy=on", "volatile") or of
	// the mount ("nodev", "nosuid", "noexec", "noatime").
	MountOptions []string
	// BindVolumes gives each VOLUME of a container's image a directory outside
	// the root (image_volumes = "bind" of crio.conf(5)).
	BindVolumes bool
	Log         *slog.Logger
}

// Rootfs mounts and unmounts root file systems.
type Rootfs struct {
	cfg  Config
	root string // without symbolic links, as the kernel shows it
	log  *slog.Logger
}

var _ backends.Rootfs = (*Rootfs)(nil)

// New makes the state directory and checks that overlay can write there.
func New(cfg Config) (*Rootfs, error) {
	if cfg.Root == "" || cfg.Layers == nil {
		return nil, messages.Errorf(messages.Invalid, "root file systems: Root and Layers must be set")
	}
	if err := os.MkdirAll(filepath.Join(cfg.Root, "pods"), 0o700); err != nil {
		return nil, fmt.Errorf("root file systems: %w", err)
	}
	root, err := filepath.EvalSymlinks(cfg.Root)
	if err == nil {
		root, err = filepath.Abs(root)
	}
	if err != nil {
		return nil, fmt.Errorf("root file systems: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("root file systems: file system of %s: %w", root, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return nil, messages.Errorf(messages.Precondition, "root file systems: %s is on overlayfs, where the kernel lets no overlay write (is this inside a container?): put the root directory on a disk or a tmpfs, or mount a volume there", root)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Rootfs{cfg: cfg, root: root, log: cfg.Log}, nil
}

// place is where a container's files are.
type place struct{ dir, upper, work, rootfs string }

func (r *Rootfs) place(pod, container string) (place, error) {
	if err := errors.Join(backends.CheckID("pod", pod), backends.CheckID("container", container)); err != nil {
		return place{}, err
	}
	dir := filepath.Join(r.root, "pods", pod, "containers", container)
	return place{dir, filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "rootfs")}, nil
}

// Mount mounts the image's layers with a writable directory above them. A
// read-only root is the OCI runtime's to make: it needs to create mount points
// first.
func (r *Rootfs) Mount(ctx context.Context, q backends.RootfsRequest) (string, error) {
	p, err := r.place(q.Pod, q.Container)
	if err != nil {
		return "", err
	}
	if mounted, err := mountinfo.Mounted(p.rootfs); err == nil && mounted {
		return p.rootfs, nil
	}
	layers, err := r.cfg.Layers(ctx, q.ImageID)
	if err != nil {
		return "", fmt.Errorf("root file system of %s: %w", q.Container, err)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("root file system of %s: %w", q.Container, err)
	}
	if err := r.mount(p, layers, q); err != nil {
		err = fmt.Errorf("root file system of %s over image %s: %w", q.Container, q.ImageID, err)
		return "", classified(errors.Join(err, r.clear(context.WithoutCancel(ctx), p)))
	}
	return p.rootfs, nil
}

func (r *Rootfs) mount(p place, layers []string, q backends.RootfsRequest) error {
	for _, dir := range []string{p.dir, p.upper, p.work, p.rootfs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if len(layers) == 0 {
		// An image without layers is an empty root; overlay wants one below.
		empty := filepath.Join(p.dir, "empty")
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return err
		}
		layers = []string{empty}
	}
	if err := likeLayer(p.upper, layers[0], q.User); err != nil {
		return err
	}
	o := overlay{lowers: layers, upper: p.upper, work: p.work, label: q.MountLabel, options: r.cfg.MountOptions}
	if q.User == nil {
		return o.mount(p.rootfs)
	}
	if err := r.letThrough(p, q.User); err != nil {
		return err
	}
	return o.mountMapped(p.rootfs, q.User.Path)
}

// letThrough lets the root of a user namespace, who is nobody on the node,
// reach the container's root: it mounts it itself. Everybody may walk through
// the common directories, not list them; into the pod's own may go only the
// group of that root, so that no other user of the node or of another pod can
// use what is in it, like a set-user-id program.
func (r *Rootfs) letThrough(p place, user *messages.UserNamespace) error {
	containers := filepath.Dir(p.dir)
	pod := filepath.Dir(containers)
	for _, dir := range []string{r.root, filepath.Dir(pod), containers, p.dir} {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o011 != 0o011 {
			if err := os.Chmod(dir, mode|0o011); err != nil {
				return err
			}
		}
	}
	return errors.Join(os.Chown(pod, 0, int(user.GIDs.Host)), os.Chmod(pod, 0o710))
}

// likeLayer gives the upper directory the owner and mode of the image's "/":
// in the overlay the upper one's are what the container sees. The upper
// directory is not mapped, so the owner is the mapped one.
func likeLayer(upper, layer string, user *messages.UserNamespace) error {
	info, err := os.Stat(layer)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		uid, gid := st.Uid, st.Gid
		if user != nil {
			var mappedUID, mappedGID bool
			uid, mappedUID = user.UIDs.ToHost(st.Uid)
			gid, mappedGID = user.GIDs.ToHost(st.Gid)
			if !mappedUID || !mappedGID {
				return messages.Errorf(messages.Invalid, "the image's / belongs to %d:%d, which the pod's user namespace does not map: use an image whose / is root's, or a longer mapping", st.Uid, st.Gid)
			}
		}
		if err := os.Chown(upper, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return os.Chmod(upper, info.Mode().Perm()|info.Mode()&(os.ModeSticky|os.ModeSetgid))
}

// classified names the failures a caller can do something about.
func classified(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return messages.Errorf(messages.NoSpace, "%w", err)
	case errors.Is(err, fs.ErrPermission):
		return messages.Errorf(messages.Internal, "%w (is the daemon root, with CAP_SYS_ADMIN?)", err)
	}
	return err
}

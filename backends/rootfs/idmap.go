package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// mountMapped is mount with the layers' ids shifted by a user namespace
// (mount_setattr(2), MOUNT_ATTR_IDMAP; overlay takes such layers since Linux
// 5.19, and cannot be shifted itself). The upper directory stays as it is: the
// container's users write there as who they are on the node.
//
// The shifted layers must be mounted somewhere while the overlay is made; it
// then keeps clones of its own. That is done on a thread in a mount namespace
// of its own that goes with it: no other process ever sees those mounts, and
// nothing of them can be left behind, also when the daemon is killed.
func (o overlay) mountMapped(target, userNS string) error {
	ns, err := os.Open(userNS)
	if err != nil {
		return fmt.Errorf("the pod's user namespace: %w", err)
	}
	defer ns.Close()
	var m mapped
	thread.ThrownAway(func() { m = o.mapHere(target, ns) })
	if m.err != nil {
		return m.err
	}
	defer unix.Close(m.fd)
	if err := unix.MoveMount(m.fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", target, err)
	}
	return makePrivate(target)
}

// mapped is a detached overlay, or why there is none.
type mapped struct {
	fd  int
	err error
}

// mapHere makes the overlay in a mount namespace of the calling thread's own.
// The container's mount point, empty there, is the scratch space.
func (o overlay) mapHere(scratch string, userNS *os.File) mapped {
	fail := func(err error) mapped { return mapped{-1, err} }
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fail(fmt.Errorf("unshare the mount namespace: %w", err))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(fmt.Errorf("making the thread's mounts private: %w", err))
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "mode=700,size=1m"); err != nil {
		return fail(fmt.Errorf("mounting scratch space: %w", err))
	}
	lowers := make([]string, len(o.lowers))
	for i, layer := range o.lowers {
		lowers[i] = filepath.Join(scratch, strconv.Itoa(i))
		if err := mountShifted(layer, lowers[i], userNS); err != nil {
			return fail(fmt.Errorf("layer %s: %w", layer, err))
		}
	}
	o.lowers = lowers
	root := filepath.Join(scratch, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		return fail(err)
	}
	if err := o.mount(root); err != nil {
		return fail(err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail(fmt.Errorf("open_tree of the overlay: %w", err))
	}
	return mapped{fd: fd}
}

// mountShifted mounts a directory on a new one, its ids shifted.
func mountShifted(source, target string, userNS *os.File) error {
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		err = fmt.Errorf("shifting its ids (mount_setattr): %w", err)
		if errors.Is(err, unix.EINVAL) {
			return messages.Errorf(messages.Precondition, "%w: its file system does not support that on this kernel: keep images on ext4, xfs, btrfs or tmpfs, or run the pod with hostUsers: true", err)
		}
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// CanMap tries whether a container's root can be mounted for a user namespace
// here: over layers in a directory of the image store, whose file system, like
// the kernel, must support it. It leaves nothing behind.
func (r *Rootfs) CanMap(ctx context.Context, imageStore, userNS string) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	// letThrough opens the root directory and what is in it, no more.
	for above := filepath.Dir(r.root); ; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return messages.Errorf(messages.Precondition, "users of other namespaces cannot walk through %s (mode %v) to %s: chmod o+x %s", above, info.Mode().Perm(), r.root, above)
		}
		if above == "/" {
			break
		}
	}
	dir, err := os.MkdirTemp(r.root, ".probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o := overlay{
		lowers: []string{imageStore}, options: r.cfg.MountOptions,
		upper: filepath.Join(dir, "upper"), work: filepath.Join(dir, "work"),
	}
	target := filepath.Join(dir, "rootfs")
	for _, d := range []string{o.upper, o.work, target} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := o.mountMapped(target, userNS); err != nil {
		return err
	}
	return unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

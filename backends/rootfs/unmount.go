package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

const (
	busyFor   = time.Second // how long a busy mount is waited for
	busyEvery = 20 * time.Millisecond
	gone      = ".removed"
)

// Unmount unmounts a container's root and removes what it wrote.
func (r *Rootfs) Unmount(ctx context.Context, pod, container string) error {
	p, err := r.place(pod, container)
	if err != nil {
		return err
	}
	if err := r.clear(ctx, p); err != nil {
		return fmt.Errorf("root file system of %s: %w", container, err)
	}
	return nil
}

// clear undoes a Mount, however far it came.
func (r *Rootfs) clear(ctx context.Context, p place) error {
	if err := r.unmount(ctx, p.rootfs); err != nil {
		return err
	}
	for _, dir := range []string{p.upper, p.work} {
		if err := setAside(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{p.upper + gone, p.work + gone} {
		if err := removeAll(ctx, dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{p.rootfs, filepath.Join(p.dir, "empty")} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing mount point: %w", err)
		}
	}
	// The record and the bundle have their files in the same directory: only
	// the last one to leave succeeds.
	_ = os.Remove(p.dir)
	return nil
}

// unmount takes off every mount at a path. One that stays busy is detached: it
// is out of the tree at once, and the kernel ends it with its last user.
func (r *Rootfs) unmount(ctx context.Context, path string) error {
	for deadline := time.Now().Add(busyFor); ; {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil // nothing is mounted there
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			r.log.Warn("root file system is in use and is detached; the kernel ends it when its last user does", "path", path)
			if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("detaching %s: %w", path, err)
			}
			deadline = time.Now().Add(busyFor)
			continue
		}
		time.Sleep(busyEvery)
	}
}

// setAside renames a directory before it is deleted, so that a half-deleted one
// is never taken for a container's.
func setAside(dir string) error {
	err := os.Rename(dir, dir+gone)
	if errors.Is(err, fs.ErrExist) { // of a removal that was cut off
		if err := removeAll(context.Background(), dir+gone); err != nil {
			return err
		}
		err = os.Rename(dir, dir+gone)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("setting %s aside: %w", dir, err)
	}
	return nil
}

// removeAll deletes a tree, one entry of its top at a time so that it ends soon
// after ctx.
func removeAll(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return removalError(err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return removalError(err)
	}
	return nil
}

func removalError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return messages.Errorf(messages.Internal, "what the container wrote cannot be removed: %w (a file made immutable? chattr -R -i on that directory lets the next try succeed)", err)
	}
	return fmt.Errorf("removing what the container wrote: %w", err)
}

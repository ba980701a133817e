package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/selinux/go-selinux/label"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// defaultShmSize is what Docker, CRI-O and containerd give a pod.
const defaultShmSize = 64 << 20

// mountShm mounts a tmpfs for the pod's /dev/shm. One that is there already is
// kept with what is in it, and gets the size asked for.
func (b *Backend) mountShm(pod string, size int64, mountLabel string) (string, error) {
	if size < 0 {
		return "", messages.Errorf(messages.Invalid, "size of /dev/shm: %d bytes is negative", size)
	}
	if size == 0 {
		size = defaultShmSize
	}
	path := filepath.Join(b.shm, pod)
	// Users of the node can walk to it (to the roots of user namespaces, that
	// is), and no further.
	err := os.MkdirAll(b.shm, 0o700)
	if err == nil {
		err = os.Chmod(b.shm, 0o700)
	}
	if err == nil {
		err = os.MkdirAll(path, 0o711)
	}
	if err != nil {
		return "", classify(fmt.Errorf("make /dev/shm of pod %s: %w", pod, err))
	}
	mounted, err := isMountPoint(path)
	if err != nil {
		return "", err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	data := fmt.Sprintf("mode=1777,size=%d", size)
	if mounted {
		flags |= unix.MS_REMOUNT // the label stays
	} else {
		data = label.FormatMountLabel(data, mountLabel)
	}
	if err := unix.Mount("shm", path, "tmpfs", flags, data); err != nil {
		if !mounted {
			_ = os.Remove(path)
		}
		return "", fmt.Errorf("mount /dev/shm of pod %s (%d bytes) on %s: %w", pod, size, path, err)
	}
	return path, nil
}

// isMountPoint compares the device with the parent's: a tmpfs is always its own.
func isMountPoint(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(path, &here); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Lstat(filepath.Dir(path), &above); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(path), err)
	}
	return here.Dev != above.Dev, nil
}

// unmountShm takes away all that is stacked on the path, and the directory. The
// unmount is lazy: what a process still has open goes when it ends.
func unmountShm(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	// Never RemoveAll: should a mount be left, its content is not ours to delete.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

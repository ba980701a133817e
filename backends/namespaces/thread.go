package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// make unshares on a thread of its own and waits for it.
func (b *Backend) make(wanted []kind, r backends.NamespaceRequest, settings []setting) (err error) {
	thread.ThrownAway(func() { err = b.makeHere(wanted, r, settings) })
	if err != nil {
		return fmt.Errorf("namespaces of pod %s: %w", r.Pod, err)
	}
	return nil
}

// makeHere changes the calling thread for good.
func (b *Backend) makeHere(wanted []kind, r backends.NamespaceRequest, settings []setting) error {
	from := "/proc/thread-self/ns/"
	if r.User == nil {
		if err := unshare(wanted); err != nil {
			return err
		}
	} else {
		pid, end, err := startIn(wanted, r.User)
		if err != nil {
			return err
		}
		defer end()
		from = fmt.Sprintf("/proc/%d/ns/", pid)
		if err := follow(from, wanted); err != nil {
			return err
		}
	}
	if r.UTS && r.Hostname != "" {
		if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", r.Hostname, err)
		}
	}
	for _, s := range settings {
		err := s.writeAs(r.User)
		if err != nil && s.byDefault {
			// A pod is worth more than a default that its namespace refuses,
			// like net.ipv4.ping_group_range with groups it does not map.
			b.log.Warn("a default sysctl is not set in this pod", "pod", r.Pod, "sysctl", s.name, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, k := range wanted {
		if err := pin(from+k.name, b.path(k, r.Pod)); err != nil {
			return err
		}
	}
	return nil
}

func unshare(wanted []kind) error {
	if err := unix.Unshare(flagsOf(wanted)); err != nil {
		return limitReached(fmt.Errorf("unshare (the daemon must run as root with CAP_SYS_ADMIN): %w", err))
	}
	return nil
}

func flagsOf(wanted []kind) (flags int) {
	for _, k := range wanted {
		flags |= k.flag
	}
	return flags
}

func limitReached(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return messages.Errorf(messages.Busy, "the node's limit of namespaces is reached (see /proc/sys/user/max_*_namespaces): %w", err)
	}
	return err
}

// pin makes an empty file and mounts the namespace on it.
func pin(source, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return classify(fmt.Errorf("pin namespace: %w", err))
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return classify(fmt.Errorf("pin namespace: %w", err))
	}
	_ = f.Close()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace: bind mount %s on %s: %w", source, target, err)
	}
	return nil
}

// unpin unmounts whatever is stacked on the path and removes the file. A lazy
// unmount is right here: nothing but the pin itself is behind the mount.
func unpin(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount point
		}
		if err != nil {
			return fmt.Errorf("unmount namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin namespace: %w", err)
	}
	return nil
}

// isNamespace says whether a namespace is mounted on the path: a pin that has
// lost its mount is an ordinary empty file.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "%w", err)
	}
	return err
}

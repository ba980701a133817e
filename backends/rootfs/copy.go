package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// copyFromRoot copies a directory of a root file system, as it is there, to a
// new one. The way to it is followed with the root as "/"; below it nothing is
// followed. A directory that is not there gives an empty one of root's.
// Devices, pipes and sockets are left out: they are nothing to be copied.
func copyFromRoot(ctx context.Context, rootfs, name, target string) error {
	handle, err := pathrs.OpenInRoot(rootfs, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return os.Mkdir(target, 0o755)
	}
	if err != nil {
		return err
	}
	defer func() { _ = handle.Close() }()
	if info, err := handle.Stat(); err != nil || !info.IsDir() {
		return errors.Join(err, os.Mkdir(target, 0o755))
	}
	from, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()))
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	to, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	return copyTree(ctx, from, to)
}

func copyTree(ctx context.Context, from, to *os.Root) error {
	var dirs []fs.FileInfo // their times last: what is made in them changes those
	var paths []string
	err := fs.WalkDir(from.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := from.Lstat(name)
		if err != nil {
			return err
		}
		if info.IsDir() {
			dirs, paths = append(dirs, info), append(paths, name)
		}
		return copyEntry(from, to, name, info)
	})
	for i := len(dirs) - 1; err == nil && i >= 0; i-- {
		err = like(to, paths[i], dirs[i])
	}
	return err
}

func copyEntry(from, to *os.Root, name string, info fs.FileInfo) error {
	switch {
	case info.IsDir() && name == ".":
		return nil
	case info.IsDir():
		return to.Mkdir(name, 0o700)
	case info.Mode().Type() == fs.ModeSymlink:
		link, err := from.Readlink(name)
		if err != nil {
			return err
		}
		if err := to.Symlink(link, name); err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		return to.Lchown(name, int(st.Uid), int(st.Gid))
	case info.Mode().IsRegular():
		if err := copyFile(from, to, name); err != nil {
			return err
		}
		return like(to, name, info)
	}
	return nil
}

func copyFile(from, to *os.Root, name string) (err error) {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := to.OpenFile(filepath.Clean(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// like gives owner, mode (after the owner, whose change clears setuid) and time.
func like(to *os.Root, name string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if err := to.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := to.Chmod(name, info.Mode().Perm()|info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return to.Chtimes(name, time.Time{}, info.ModTime())
}

package checkpoints

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// applyChanges makes a mounted root what the container had made of it: first
// what it had deleted goes, then what it had written comes. Everything is done
// through an os.Root, so that no link of the image or of the archive leads to
// another place.
func applyChanges(ctx context.Context, diff string, deleted []string, rootfs string) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, path := range deleted {
		name := strings.TrimPrefix(filepath.Clean(path), "/")
		if !filepath.IsLocal(name) || name == "." {
			return messages.Errorf(messages.Invalid, "%s: %q is no path in the root", deletedFiles, path)
		}
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("remove /%s: %w", name, err)
		}
	}
	f, size, err := openArchive(diff)
	if err != nil {
		return err
	}
	defer f.Close()
	c := change{root: root}
	if err := eachEntry(ctx, f, size, c.apply); err != nil {
		return err
	}
	return c.times()
}

type change struct {
	root *os.Root
	dirs []*tar.Header // whose times are set last
}

func (c *change) apply(h *tar.Header, name string, content io.Reader) error {
	if name == "." {
		return nil // the root's owner and mode are the image's
	}
	if old, err := c.root.Lstat(name); err == nil && (!old.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := c.root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := c.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := c.create(h, name, content); err != nil || h.Typeflag == tar.TypeLink {
		return err
	}
	if err := c.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	// After the owner: chown takes set-user-id away.
	if err := c.root.Chmod(name, h.FileInfo().Mode()&^fs.ModeType); err != nil {
		return err
	}
	if err := c.attributes(h, name); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		c.dirs = append(c.dirs, h)
		return nil
	}
	return c.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (c *change) create(h *tar.Header, name string, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := c.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case tar.TypeReg:
		out, err := c.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, content)
		return errors.Join(err, out.Close())
	case tar.TypeSymlink:
		return c.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return c.root.Link(filepath.Clean(h.Linkname), name)
	case tar.TypeFifo:
		dir, err := c.root.OpenFile(filepath.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer dir.Close()
		return unix.Mkfifoat(int(dir.Fd()), filepath.Base(name), 0o600)
	case tar.TypeChar, tar.TypeBlock:
		return messages.Errorf(messages.Invalid, "it is a device node: a container that has made one in its root cannot be restored")
	}
	return messages.Errorf(messages.Invalid, "it is of a kind (%q) that a root does not have", h.Typeflag)
}

// attributes sets those that a container can set itself: trusted.* are
// overlay's, the labels are the mount's.
func (c *change) attributes(h *tar.Header, name string) error {
	const prefix = "SCHILY.xattr."
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, prefix)
		if !ok || attr == "security.selinux" {
			continue
		}
		if !strings.HasPrefix(attr, "user.") && attr != "security.capability" && !strings.HasPrefix(attr, "system.posix_acl_") {
			return messages.Errorf(messages.Invalid, "it has the attribute %s, which no container sets", attr)
		}
		if h.Typeflag == tar.TypeFifo {
			continue // opening one would wait
		}
		f, err := c.root.Open(name)
		if err != nil {
			return err
		}
		err = unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("attribute %s: %w", attr, err)
		}
	}
	return nil
}

// times sets those of directories, when nothing is put into them any more.
func (c *change) times() error {
	for _, h := range c.dirs {
		if err := c.root.Chtimes(filepath.Clean(h.Name), h.ModTime, h.ModTime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

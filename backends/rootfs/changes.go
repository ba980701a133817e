package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Changes writes what a container has changed in its root as a tar, and gives
// the paths it has deleted (absolute in the container, sorted). It should be
// frozen meanwhile; a file that changes while it is read is an error.
func (r *Rootfs) Changes(ctx context.Context, pod, container, imageID string, to io.Writer) (deleted []string, err error) {
	p, err := r.place(pod, container)
	if err != nil {
		return nil, err
	}
	layers, err := r.cfg.Layers(ctx, imageID)
	if err != nil {
		return nil, fmt.Errorf("layers of image %s: %w", imageID, err)
	}
	c := &changes{ctx: ctx, upper: p.upper, layers: layers, out: tar.NewWriter(to), links: map[uint64]string{}}
	if err := errors.Join(c.dir("", false), c.out.Close()); err != nil {
		return nil, fmt.Errorf("changes of the root of %s: %w", container, err)
	}
	slices.Sort(c.deleted)
	return c.deleted, nil
}

// changes is a walk through an overlay's upper directory.
type changes struct {
	ctx     context.Context
	upper   string
	layers  []string
	out     *tar.Writer
	links   map[uint64]string // inode → first name of a file with several
	deleted []string
}

// dir walks one directory. In a covered one nothing of the layers below is
// seen: the container has removed and remade it, or one above it.
func (c *changes) dir(rel string, covered bool) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(c.upper, rel))
	if err != nil {
		return err
	}
	mine := map[string]bool{}
	for _, e := range entries {
		name := filepath.Join(rel, e.Name())
		mine[e.Name()] = true
		info, err := e.Info()
		if err != nil {
			return err
		}
		if whiteout(info) {
			c.deleted = append(c.deleted, "/"+name)
			continue
		}
		if err := c.add(name, info); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		if info.IsDir() {
			if err := c.dir(name, covered || opaque(filepath.Join(c.upper, name))); err != nil {
				return err
			}
		}
	}
	if covered {
		c.hidden(rel, mine)
	}
	return nil
}

// hidden adds what the layers have in a covered directory.
func (c *changes) hidden(rel string, mine map[string]bool) {
	for _, layer := range c.layers {
		entries, _ := os.ReadDir(filepath.Join(layer, rel)) // not every layer has it
		for _, e := range entries {
			if info, err := e.Info(); err == nil && !mine[e.Name()] && !whiteout(info) {
				mine[e.Name()] = true
				c.deleted = append(c.deleted, "/"+filepath.Join(rel, e.Name()))
			}
		}
	}
}

func whiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func opaque(dir string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

func (c *changes) add(name string, info fs.FileInfo) error {
	path := filepath.Join(c.upper, name)
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // it is CRIU's to make again
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name, header.Uname, header.Gname = name, "", ""
	header.Format = tar.FormatPAX
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
		if first, seen := c.links[st.Ino]; seen {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			return c.out.WriteHeader(header)
		}
		c.links[st.Ino] = name
	}
	if header.PAXRecords, err = xattrs(path); err != nil {
		return err
	}
	if err := c.out.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(c.out, f, header.Size)
	return err
}

// xattrs are a file's own, as a tar holds them; overlay's are not.
func xattrs(path string) (map[string]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return nil, err
	}
	records := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10) // the most that a value can have
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		records["SCHILY.xattr."+name] = string(value[:n])
	}
	return records, nil
}

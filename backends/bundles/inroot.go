package bundles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// maxAccountFile is far above any real /etc/passwd; an image can hold a sparse
// file of terabytes.
const maxAccountFile = 4 << 20

// scanInRoot gives read a regular file of a root file system. Links are
// followed as the container itself would follow them, with the root as "/": an
// image's /etc/passwd that points to the host's gives nothing of the host
// away. A device or a fifo is never opened, only looked at. Absent files are
// empty.
func scanInRoot(rootfs, name string, read func(io.Reader) error) error {
	handle, err := pathrs.OpenInRoot(rootfs, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return messages.Errorf(messages.Invalid, "%s of the image leads nowhere: %w", name, err)
	case err != nil:
		return fmt.Errorf("%s of the image: %w", name, err)
	}
	defer func() { _ = handle.Close() }()
	info, err := handle.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("%s of the image: %w", name, err)
	case !info.Mode().IsRegular():
		return messages.Errorf(messages.Invalid, "%s of the image is not a regular file (%s)", name, info.Mode().Type())
	case info.Size() > maxAccountFile:
		return messages.Errorf(messages.Invalid, "%s of the image has %d bytes, more than %d are not read", name, info.Size(), maxAccountFile)
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%s of the image: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	if err := read(io.LimitReader(f, maxAccountFile)); err != nil {
		return messages.Errorf(messages.Invalid, "%s of the image: %w", name, err)
	}
	return nil
}

// directories makes, in the root file system, the directories that the image
// declares as volumes (crio.conf image_volumes=mkdir) and the working
// directory. What a mount will cover is left to the mount, and a root file
// system that cannot be written to is left as it is.
func (b *bundle) directories() error {
	for _, volume := range b.volumesInRoot() {
		if err := b.makeInRoot("image volume", path.Join("/", volume)); err != nil {
			return err
		}
	}
	return b.makeInRoot("working directory", b.spec.Process.Cwd)
}

func (b *bundle) volumesInRoot() []string {
	if mode := b.config.ImageVolumes; mode != "" && mode != "mkdir" {
		return nil
	}
	return b.r.Image.Volumes
}

func (b *bundle) makeInRoot(what, dir string) error {
	for _, m := range b.spec.Mounts {
		if below(dir, m.Destination) {
			return nil
		}
	}
	if strings.ContainsRune(dir, 0) {
		return messages.Errorf(messages.Invalid, "%s %.256q contains a NUL character", what, dir)
	}
	// A link that leads nowhere leads to a directory that is made, inside the
	// root as all it could mean. Whatever SecureJoin finds, MkdirAll is safe.
	inside, err := securejoin.SecureJoin(b.r.Rootfs, dir)
	if err == nil {
		made := strings.TrimPrefix(inside, b.r.Rootfs)
		missing := b.firstMissing(made)
		if err = pathrs.MkdirAll(b.r.Rootfs, made, os.FileMode(0o755)); err == nil {
			err = b.giveToRoot(made, missing)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		b.log.Debug("the root file system is read-only", what, dir)
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ELOOP):
		return messages.Errorf(messages.Invalid, "%s %s cannot be made in the image: %w", what, dir, err)
	}
	return fmt.Errorf("%s %s: %w", what, dir, withSpace(err))
}

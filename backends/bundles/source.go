package bundles

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// lookAt checks that the source of a mount is there and gives its real path.
// On a dead network or FUSE file system the look never returns and cannot be
// interrupted (containerd#10828): the caller's wait ends with its context.
//
// A missing source is an error, though other runtimes make a directory of it:
// "runtimes should report an error" (cri-api, Mount.host_path), and a typing
// mistake must not become an empty volume.
func (b *Backend) lookAt(ctx context.Context, at, source string) (string, error) {
	real, err := b.join(ctx, "look "+source, func() (any, error) {
		real, err := filepath.EvalSymlinks(source)
		if err != nil {
			return "", err
		}
		// A fifo or device is not opened, a mount that needs it is made.
		return real, unix.Stat(real, &unix.Stat_t{})
	})
	switch {
	case err == nil:
		return real.(string), nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return "", messages.Errorf(messages.KindOf(err), "mount %s: waiting for stat of %s (a file system that does not answer?): %w", at, source, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return "", messages.Errorf(messages.Invalid, "mount %s: source %s does not exist: make it, or correct host_path", at, source)
	}
	return "", fmt.Errorf("mount %s: source %s: %w", at, source, err)
}

// peers says how the mount a path is on takes part in propagation. It reads
// the whole mount table, so it is only called when propagation is asked for.
func peers(path string) (shared, slave bool, err error) {
	parents, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return false, false, fmt.Errorf("reading the mount table: %w", err)
	}
	var nearest *mountinfo.Info
	for _, m := range parents {
		// Of mounts on one point the last is on top.
		if nearest == nil || len(m.Mountpoint) >= len(nearest.Mountpoint) {
			nearest = m
		}
	}
	if nearest == nil {
		return false, false, fmt.Errorf("no mount holds %s", path)
	}
	for _, tag := range strings.Fields(nearest.Optional) {
		shared = shared || strings.HasPrefix(tag, "shared:")
		slave = slave || strings.HasPrefix(tag, "master:")
	}
	return shared, slave, nil
}

package checkpoints

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// restorePrefix begins the names of what was unpacked: restore-<pod>-<container>.
// It is not removed by New: a container that was restored as far as "created"
// waits for its start, whatever daemon there is.
const restorePrefix = "restore-"

func (b *Backend) unpacked(pod, container string) (string, error) {
	if err := errors.Join(backends.CheckID("pod", pod), backends.CheckID("container", container)); err != nil {
		return "", err
	}
	return filepath.Join(b.cfg.Work, restorePrefix+pod+"-"+container), nil
}

// Unpack begins anew when it is repeated.
func (b *Backend) Unpack(ctx context.Context, r backends.UnpackRequest) (string, error) {
	dir, err := b.unpacked(r.Pod, r.Container)
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return "", withSpace(err)
	}
	name := r.Name + ".tar"
	if filepath.Base(name) != name {
		return "", messages.Errorf(messages.Invalid, "container_configs: the name %q is not one of a file", r.Name)
	}
	if err := b.unpack(ctx, filepath.Join(r.Dir, name), dir, r); err != nil {
		return "", withSpace(fmt.Errorf("container %s of the checkpoint in %s: %w", r.Name, r.Dir, err))
	}
	return dir, nil
}

func (b *Backend) unpack(ctx context.Context, archive, dir string, r backends.UnpackRequest) error {
	if err := extract(ctx, archive, dir); err != nil {
		return err
	}
	var meta containerConfig
	if err := readJSON(filepath.Join(dir, configDump), &meta); err != nil {
		return err
	}
	if meta.Name != r.Name {
		return messages.Errorf(messages.Invalid, "the archive is of container %q", meta.Name)
	}
	if _, err := os.Lstat(filepath.Join(dir, "checkpoint", "inventory.img")); err != nil {
		return messages.Errorf(messages.Invalid, "it has no images of processes (checkpoint/inventory.img)")
	}
	var deleted []string
	if err := readJSON(filepath.Join(dir, deletedFiles), &deleted); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := applyChanges(ctx, filepath.Join(dir, rootfsDiff), deleted, r.Rootfs); err != nil {
		return fmt.Errorf("its changes of the root: %w", err)
	}
	return os.Remove(filepath.Join(dir, rootfsDiff))
}

// Forget removes the directory.
func (b *Backend) Forget(_ context.Context, pod, container string) error {
	dir, err := b.unpacked(pod, container)
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Held names what was unpacked for containers.
func (b *Backend) Held(context.Context) ([]backends.Held, error) {
	entries, err := os.ReadDir(b.cfg.Work)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	var held []backends.Held
	for _, e := range entries {
		ids, ours := strings.CutPrefix(e.Name(), restorePrefix)
		if pod, container, two := strings.Cut(ids, "-"); ours && two && backends.IsOurs(pod) && backends.IsOurs(container) {
			held = append(held, backends.Held{Kind: "checkpoint", Pod: pod, Container: container, Name: filepath.Join(b.cfg.Work, e.Name())})
		}
	}
	return held, nil
}

// Drop removes what Held named.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	return b.Forget(ctx, h.Pod, h.Container)
}

// wanted are the files of an archive that a restore needs.
func wanted(name string) bool {
	switch name {
	case configDump, rootfsDiff, deletedFiles, "checkpoint":
		return true
	}
	// CRIU's images lie flat in their directory.
	return filepath.Dir(name) == "checkpoint"
}

// extract takes the files of an archive that are needed. Nothing but files and
// one directory is made, nothing outside of dir, and not more bytes than the
// archive has: a sparse entry can claim any number.
func extract(ctx context.Context, archive, dir string) error {
	f, size, err := openArchive(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return eachEntry(ctx, f, size, func(h *tar.Header, name string, content io.Reader) error {
		switch {
		case !wanted(name):
			return nil
		case h.Typeflag == tar.TypeDir && name == "checkpoint":
			return root.MkdirAll(name, 0o700)
		case h.Typeflag != tar.TypeReg:
			return messages.Errorf(messages.Invalid, "%s is no regular file", name)
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, content)
		return errors.Join(err, out.Close())
	})
}

// openArchive opens a regular file, not what a link names.
func openArchive(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, messages.Errorf(messages.Invalid, "%w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = messages.Errorf(messages.Invalid, "%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// eachEntry goes through a tar whose entries together may not have more bytes
// than it has itself.
func eachEntry(ctx context.Context, f io.Reader, size int64, do func(h *tar.Header, name string, content io.Reader) error) error {
	left := size
	for r := tar.NewReader(f); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return messages.Errorf(messages.Invalid, "it is no whole tar: %w", err)
		}
		name := filepath.Clean(strings.TrimSuffix(h.Name, "/"))
		if !filepath.IsLocal(name) {
			return messages.Errorf(messages.Invalid, "the entry %q leads out of it", h.Name)
		}
		if left -= h.Size; left < 0 || h.Size < 0 {
			return messages.Errorf(messages.Invalid, "the entry %q and those before claim more bytes than the archive has", h.Name)
		}
		if err := do(h, name, &untilDone{ctx, r}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// untilDone ends a copy with its context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// readJSON reads one of the small files of a checkpoint.
func readJSON(path string, into any) error {
	const most = 8 << 20
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = errors.New("it is larger than 8 MiB")
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return messages.Errorf(messages.Invalid, "%s: %w", filepath.Base(path), err)
	}
	return nil
}

// Package files makes the small files every container of a pod shares:
// <Root>/pods/<pod>/files/{resolv.conf,hostname}, and the tmpfs for /dev/shm at
// <Run>/shm/<pod>. They are mounted into containers by their host paths.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/opencontainers/selinux/go-selinux/label"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says where the files are.
type Config struct {
	Root string // e.g. /var/lib/troupe: survives a reboot
	Run  string // e.g. /run/troupe: mounts, gone after a reboot
	Log  *slog.Logger
}

// Backend implements backends.Files in a file system. It needs root.
type Backend struct {
	pods string
	shm  string
	log  *slog.Logger
}

var _ backends.Files = (*Backend)(nil)

// New touches nothing yet.
func New(c Config) *Backend {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Backend{pods: filepath.Join(c.Root, "pods"), shm: filepath.Join(c.Run, "shm"), log: c.Log}
}

func (b *Backend) dir(pod string) string { return filepath.Join(b.pods, pod, "files") }

// Make writes the files and mounts the tmpfs. A file that is right already is
// left alone: containers have it mounted, and would keep the old one.
func (b *Backend) Make(ctx context.Context, r backends.FilesRequest) (backends.PodFiles, error) {
	none := backends.PodFiles{}
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return none, err
	}
	resolv, err := b.resolvConf(r.DNS)
	if err != nil {
		return none, err
	}
	hostname, err := hostnameFile(r.Hostname)
	if err != nil {
		return none, err
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	dir := b.dir(r.Pod)
	// Containers get the files by bind mount, so that only the files, not the
	// directories above, need to be readable for their users.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return none, classify(fmt.Errorf("make the pod's files: %w", err))
	}
	made := backends.PodFiles{
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Hostname:   filepath.Join(dir, "hostname"),
		Shm:        "/dev/shm",
	}
	if err := writeFile(made.ResolvConf, resolv); err != nil {
		return none, err
	}
	if err := writeFile(made.Hostname, hostname); err != nil {
		return none, err
	}
	own := []string{made.ResolvConf, made.Hostname}
	if !r.HostIPC {
		if made.Shm, err = b.mountShm(r.Pod, r.ShmSize, r.MountLabel); err != nil {
			return none, err
		}
		own = append(own, made.Shm)
	}
	for _, path := range []string{made.ResolvConf, made.Hostname} {
		if err := label.SetFileLabel(path, r.MountLabel); err != nil {
			return none, fmt.Errorf("SELinux label of %s: %w", path, err)
		}
	}
	return made, giveTo(r.User, own)
}

// giveTo makes the root of the pod's user namespace the owner of its files: as
// the node's root's they would be nobody's inside.
func giveTo(u *messages.UserNamespace, paths []string) error {
	if u == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, int(u.UIDs.Host), int(u.GIDs.Host)); err != nil {
			return fmt.Errorf("give the pod's files to the root of its user namespace: %w", err)
		}
	}
	return nil
}

// Remove unmounts and deletes them. The pod's own directory goes too when
// nothing else is left in it.
func (b *Backend) Remove(_ context.Context, pod string) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	if err := unmountShm(filepath.Join(b.shm, pod)); err != nil {
		return err
	}
	dir := b.dir(pod)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the pod's files: %w", err)
	}
	_ = os.Remove(filepath.Dir(dir)) // fails when it is not empty, as it should
	return nil
}

// Held is every directory of files and every shm mount point.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	var held []backends.Held
	pods, err := ids(b.pods)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if _, err := os.Lstat(b.dir(pod)); err == nil {
			held = append(held, backends.Held{Kind: "files", Pod: pod, Name: b.dir(pod)})
		}
	}
	mounts, err := ids(b.shm)
	if err != nil {
		return nil, err
	}
	for _, pod := range mounts {
		held = append(held, backends.Held{Kind: "mount", Pod: pod, Name: filepath.Join(b.shm, pod)})
	}
	return held, ctx.Err()
}

// Drop removes all of the pod's files.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error { return b.Remove(ctx, h.Pod) }

func ids(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pods' files: %w", err)
	}
	var names []string
	for _, e := range entries {
		if backends.IsOurs(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// writeFile replaces a file as a whole, or leaves it as it was.
func writeFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return classify(fmt.Errorf("write %s: %w", path, err))
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return classify(fmt.Errorf("write %s: %w", path, err))
	}
	return nil
}

func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "%w", err)
	}
	return err
}

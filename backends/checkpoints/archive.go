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
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
)

// The files of a checkpoint (checkpointctl, lib/metadata.go, which Podman,
// CRI-O and the kubelet use).
const (
	configDump   = "config.dump"
	specDump     = "spec.dump"
	rootfsDiff   = "rootfs-diff.tar"
	deletedFiles = "deleted.files"
	podOptions   = "pod.options"
	podDump      = "pod.dump"

	partial = ".partial"
)

// containerConfig is config.dump.
type containerConfig struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	OCIRuntime      string    `json:"runtime,omitempty"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
	Restored        bool      `json:"restored,omitempty"`
}

// Finish writes the archives. Each is there whole or not at all.
func (b *Backend) Finish(ctx context.Context, r backends.CheckpointRequest) error {
	work, err := b.work(r)
	if err != nil {
		return err
	}
	for _, c := range r.Containers {
		dir := filepath.Join(work, c.ID)
		if err := b.describe(ctx, r, c, dir); err != nil {
			return withSpace(err)
		}
		to := r.Archive
		if r.Dir != "" {
			to = filepath.Join(r.Dir, c.Config.GetMetadata().GetName()+".tar")
		}
		if err := writeArchive(ctx, dir, to); err != nil {
			return withSpace(err)
		}
	}
	if r.Dir != "" {
		if err := writePod(r); err != nil {
			return withSpace(err)
		}
	}
	return os.RemoveAll(work)
}

// describe puts what is not CRIU's beside its images.
func (b *Backend) describe(ctx context.Context, r backends.CheckpointRequest, c backends.CheckpointedContainer, dir string) error {
	meta := containerConfig{
		ID: c.ID, Name: c.Config.GetMetadata().GetName(), RootfsImage: c.Image.ID, RootfsImageRef: c.Image.ID,
		RootfsImageName: c.Config.GetImage().GetImage(), OCIRuntime: r.Handler, CreatedTime: c.CreatedAt, CheckpointedAt: time.Now(),
	}
	if len(c.Image.RepoDigests) > 0 {
		meta.RootfsImageRef = c.Image.RepoDigests[0]
	}
	if len(c.Image.RepoTags) > 0 {
		meta.RootfsImageName = c.Image.RepoTags[0]
	}
	spec, err := os.ReadFile(b.cfg.Spec(r.Pod, c.ID))
	if err != nil {
		return fmt.Errorf("the container's spec: %w", err)
	}
	changes, err := os.OpenFile(filepath.Join(dir, rootfsDiff), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	deleted, err := b.cfg.Changes(ctx, r.Pod, c.ID, c.Image.ID, changes)
	if err := errors.Join(err, changes.Close()); err != nil {
		return fmt.Errorf("what the container wrote: %w", err)
	}
	if len(deleted) > 0 {
		if err := writeJSON(filepath.Join(dir, deletedFiles), deleted); err != nil {
			return err
		}
	}
	return errors.Join(writeJSON(filepath.Join(dir, configDump), meta), os.WriteFile(filepath.Join(dir, specDump), spec, 0o600))
}

// podMeta is pod.options; the keys are checkpointctl's.
type podMeta struct {
	Version    int               `json:"version"`
	Containers map[string]string `json:"containers"` // name → archive without .tar
}

// podState is pod.dump: what a restore compares with.
type podState struct {
	Handler    string                     `json:"handler"`
	Config     json.RawMessage            `json:"config"`     // runtime.PodSandboxConfig
	Containers map[string]json.RawMessage `json:"containers"` // runtime.ContainerConfig, by name
}

func writePod(r backends.CheckpointRequest) error {
	meta := podMeta{Version: 1, Containers: map[string]string{}}
	state := podState{Handler: r.Handler, Containers: map[string]json.RawMessage{}}
	var err error
	if state.Config, err = protojson.Marshal(r.PodConfig); err != nil {
		return err
	}
	for _, c := range r.Containers {
		name := c.Config.GetMetadata().GetName()
		meta.Containers[name] = name
		if state.Containers[name], err = protojson.Marshal(c.Config); err != nil {
			return err
		}
	}
	return errors.Join(writeJSON(filepath.Join(r.Dir, podDump), state), writeJSON(filepath.Join(r.Dir, podOptions), meta))
}

// writeArchive packs a directory. Memory of a container is in it: nobody but
// root may read it.
func writeArchive(ctx context.Context, dir, to string) (err error) {
	half := to + partial
	f, err := os.OpenFile(half, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(half)
		}
	}()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return addFile(w, dir, path, e)
	})
	if err = errors.Join(err, w.Close(), f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(half, to)
}

func addFile(w *tar.Writer, dir, path string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return messages.Errorf(messages.Internal, "%s is neither file nor directory", path)
	}
	header, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	if err := w.WriteHeader(header); err != nil || info.IsDir() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

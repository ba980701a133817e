// Package checkpoints makes checkpoints of containers and pods from CRIU's
// images and from what the containers wrote, and takes them apart again. A container's checkpoint is one
// archive with the file names that checkpointctl, CRI-O and the kubelet know;
// a pod's is a directory with one such archive for each container and a list of
// them (pod.options, pod.dump).
//
// What is under way has a directory in Work, and a note of the place it is
// written to; New removes both, because nobody waits for the checkpoint of a
// daemon that has ended.
package checkpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// Config says where half-made checkpoints are, and who knows the changes of a
// container's root file system.
type Config struct {
	Work string
	// Changes writes what a container has changed in its root as a tar, and
	// gives the paths it has deleted.
	Changes func(ctx context.Context, pod, container, imageID string, to io.Writer) (deleted []string, err error)
	// Spec is the path of a container's OCI runtime spec.
	Spec func(pod, container string) string
	Log  *slog.Logger
}

// Backend implements backends.Checkpoints.
type Backend struct {
	cfg Config
	log *slog.Logger
}

var _ backends.Checkpoints = (*Backend)(nil)

// note is the file that says where a pod's checkpoint is written to.
const note = "output"

// New removes what an earlier daemon left.
func New(c Config) (*Backend, error) {
	b := &Backend{cfg: c, log: c.Log}
	if b.log == nil {
		b.log = slog.Default()
	}
	left, err := os.ReadDir(c.Work)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), restorePrefix) {
			continue
		}
		dir := filepath.Join(c.Work, e.Name())
		if output, err := backends.ReadFile(filepath.Join(dir, note)); err == nil {
			if err := clearOutput(string(output)); err != nil {
				b.log.Error("half a checkpoint is left; remove it", "dir", string(output), "err", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			b.log.Error("what is left of a checkpoint cannot be removed", "dir", dir, "err", err)
		}
	}
	return b, nil
}

// work is the directory of one checkpoint. A container has one at a time, and
// so has a pod: their actors see to that.
func (b *Backend) work(r backends.CheckpointRequest) (string, error) {
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return "", err
	}
	if r.Dir != "" {
		return filepath.Join(b.cfg.Work, "pod-"+r.Pod), nil
	}
	if len(r.Containers) != 1 {
		return "", messages.Errorf(messages.Internal, "an archive is of one container, not of %d", len(r.Containers))
	}
	return filepath.Join(b.cfg.Work, "container-"+r.Containers[0].ID), nil
}

// Begin checks the place and makes the directories.
func (b *Backend) Begin(ctx context.Context, r backends.CheckpointRequest) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	work, err := b.work(r)
	if err != nil {
		return nil, err
	}
	if r.Dir != "" {
		err = checkOutput(r.Dir)
	} else {
		err = checkArchive(r.Archive)
	}
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(work); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, withSpace(err)
	}
	if r.Dir != "" {
		if err := os.WriteFile(filepath.Join(work, note), []byte(r.Dir), 0o600); err != nil {
			return nil, withSpace(err)
		}
	}
	var dirs []string
	for _, c := range r.Containers {
		if err := backends.CheckID("container", c.ID); err != nil {
			return nil, err
		}
		dir := filepath.Join(work, c.ID)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, withSpace(err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// Discard removes what was made.
func (b *Backend) Discard(_ context.Context, r backends.CheckpointRequest) error {
	work, err := b.work(r)
	if err != nil {
		return err
	}
	var errs []error
	if _, err := os.Lstat(filepath.Join(work, note)); r.Dir != "" && err == nil { // else nothing of it is ours
		errs = append(errs, clearOutput(r.Dir))
	}
	return errors.Join(append(errs, os.RemoveAll(work))...)
}

// checkArchive: the archive is a file to be, or one to be replaced.
func checkArchive(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return messages.Errorf(messages.Invalid, "location %s: is there and is no regular file", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return messages.Errorf(messages.Invalid, "location %s: %w", path, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return messages.Errorf(messages.Invalid, "location %s: its directory does not exist: make it first", path)
	}
	return nil
}

// checkOutput: the directory is the caller's to make, and empty (cri-api,
// CheckpointPodRequest.output_path).
func checkOutput(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return messages.Errorf(messages.Invalid, "output_path %s: %w: it must be an existing, empty directory", dir, err)
	case !info.IsDir():
		return messages.Errorf(messages.Invalid, "output_path %s: is no directory", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return messages.Errorf(messages.Invalid, "output_path %s: %w", dir, err)
	}
	if len(entries) > 0 {
		return messages.Errorf(messages.Invalid, "output_path %s: must be empty, and has %s in it", dir, entries[0].Name())
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return messages.Errorf(messages.Invalid, "output_path %s: cannot be written: %w", dir, err)
	}
	return nil
}

// clearOutput removes the files of a pod's checkpoint, and nothing else.
func clearOutput(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), partial)
		if name == podOptions || name == podDump || strings.HasSuffix(name, ".tar") {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func withSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "checkpoint: %w", err)
	}
	return fmt.Errorf("checkpoint: %w", err)
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return os.WriteFile(path, data, 0o600)
}

package bundles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

const (
	specName = "config.json"
	pauseDir = "pause"
	// half is what a write that was cut short leaves beside config.json.
	half = ".config.json-*"
)

// dir is where a container's bundle is. The pause process has the pod's own id.
func (b *Backend) dir(pod, container string) string { return dirIn(b.config.Root, pod, container) }

func dirIn(root, pod, container string) string {
	if container == pod {
		return filepath.Join(root, "pods", pod, pauseDir)
	}
	return filepath.Join(root, "pods", pod, "containers", container)
}

// SpecPath is Backend.Spec before there is one.
func SpecPath(root string) func(pod, container string) string {
	return func(pod, container string) string { return filepath.Join(dirIn(root, pod, container), specName) }
}

// Spec is the path of a container's spec, whether it is there or not.
func (b *Backend) Spec(pod, container string) string {
	return filepath.Join(b.dir(pod, container), specName)
}

// writeSpec replaces config.json by a rename: a runtime that reads it sees the
// old or the new one. It is not synced: after a power cut no container runs.
func writeSpec(dir string, spec *specs.Spec) (err error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return withSpace(err)
	}
	f, err := os.CreateTemp(dir, half)
	if err != nil {
		return withSpace(err)
	}
	defer func() {
		if err != nil {
			err = withSpace(errors.Join(err, os.Remove(f.Name())))
			_ = os.Remove(dir) // only if there is nothing else in it
		}
	}()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, specName))
}

func withSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "%w", err)
	}
	return err
}

func removeSpec(dir string) error {
	names, err := filepath.Glob(filepath.Join(globEscape(dir), half))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range append(names, filepath.Join(dir, specName)) {
		// Ours by its name, whatever damage has made of it.
		if err := os.RemoveAll(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeIfEmpty(dir))...)
}

// removeIfEmpty takes a directory away when nobody else has something in it.
func removeIfEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("removing %s: %w", dir, err)
}

// globEscape makes a path mean itself in a pattern: the root is the operator's.
func globEscape(path string) string {
	escaped := make([]byte, 0, len(path))
	for i := range len(path) {
		if c := path[i]; c == '*' || c == '?' || c == '[' || c == '\\' {
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, path[i])
	}
	return string(escaped)
}

// Held lists every bundle, whole or half-written.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	pods, err := subdirs(filepath.Join(b.config.Root, "pods"))
	if err != nil {
		return nil, err
	}
	held, err := b.levels.held()
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		containers, err := subdirs(filepath.Join(b.config.Root, "pods", pod, "containers"))
		if err != nil {
			return nil, err
		}
		for _, container := range append(containers, pod) {
			if backends.IsOurs(pod) && backends.IsOurs(container) && holds(b.dir(pod, container)) {
				held = append(held, b.held(pod, container))
			}
		}
	}
	return held, nil
}

func (b *Backend) held(pod, container string) backends.Held {
	return backends.Held{Kind: "bundle", Pod: pod, Container: container, Name: filepath.Join(b.dir(pod, container), specName)}
}

func holds(dir string) bool {
	names, _ := filepath.Glob(filepath.Join(globEscape(dir), half))
	_, err := os.Lstat(filepath.Join(dir, specName))
	return len(names) > 0 || err == nil
}

// Drop removes a bundle that nobody owns, and the pod's directories with it
// when nothing else is in them: a pod that lives has its record there.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	if h.Kind == levelKind {
		return b.dropLevel(ctx, h)
	}
	container := h.Container
	if container == "" {
		container = h.Pod
	}
	if err := b.Remove(ctx, h.Pod, container); err != nil {
		return err
	}
	pod := filepath.Join(b.config.Root, "pods", h.Pod)
	if _, err := os.Lstat(filepath.Join(pod, "record")); err == nil {
		return nil
	}
	return errors.Join(removeIfEmpty(filepath.Join(pod, "containers")), removeIfEmpty(pod))
}

// subdirs are the names of the directories in one that may not exist.
func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"golang.org/x/sys/unix"
)

// strayForm is the name of a container's cgroup, with either manager.
var strayForm = regexp.MustCompile(`^troupe-[0-9a-f]{64}(\.scope)?$`)

// containers are the cgroups of containers that Owner made, wherever they are:
// the kubelet says in which pod's cgroup, and without a record nobody knows
// which that was. One with processes is a process: it goes first of all.
func (b *Backend) containers(ctx context.Context) ([]backends.Held, error) {
	var held []backends.Held
	seen := map[string]int{}
	for _, h := range b.everywhere {
		err := h.walk(ctx, h.mount, func(dir string) error {
			pod, container, ours := b.markOf(dir)
			if !ours {
				return nil
			}
			name := strings.TrimPrefix(dir, h.mount)
			i, known := seen[name]
			if !known {
				i = len(held)
				seen[name] = i
				held = append(held, backends.Held{Kind: "cgroup", Pod: pod, Container: container, Name: name})
			}
			if held[i].Kind == backends.HeldProcess {
				return nil
			}
			busy, err := populated(dir)
			if busy {
				held[i].Kind = backends.HeldProcess
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for containers' cgroups: %w", err)
		}
	}
	return held, nil
}

// walk calls found for each directory with the name of a container's cgroup.
// One without directories in it is not read: the kernel counts them.
func (h hierarchy) walk(ctx context.Context, dir string, found func(dir string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Nlink <= 2 {
		return nil // gone meanwhile, or nothing below it
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below := filepath.Join(dir, e.Name())
		if strayForm.MatchString(e.Name()) {
			err = found(below)
		} else {
			err = h.walk(ctx, below, found)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// markOf reads whose a cgroup is.
func (b *Backend) markOf(dir string) (pod, container string, ours bool) {
	value := make([]byte, 4096)
	n, err := unix.Getxattr(dir, b.mark, value)
	if err != nil {
		return "", "", false
	}
	parts := strings.SplitN(string(value[:n]), " ", 3)
	if len(parts) != 3 || parts[2] != b.owner || backends.CheckID("pod", parts[0]) != nil || backends.CheckID("container", parts[1]) != nil {
		return "", "", false
	}
	return parts[0], parts[1], true
}

// populated says whether there is a process in the tree.
func populated(dir string) (bool, error) {
	busy := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		}
		pids, err := members(path)
		if len(pids) > 0 {
			busy = true
			return filepath.SkipAll
		}
		return err
	})
	return busy, err
}

// dropContainer kills what runs in a container's cgroup and removes it, on
// every hierarchy. That it is ours is looked at again.
func (b *Backend) dropContainer(ctx context.Context, held backends.Held) error {
	if !strayForm.MatchString(filepath.Base(held.Name)) || filepath.Clean(held.Name) != held.Name {
		return fmt.Errorf("cgroup %q: not a container's", held.Name)
	}
	var errs []error
	for _, h := range b.everywhere {
		dir := filepath.Join(h.mount, held.Name)
		if _, container, ours := b.markOf(dir); !ours || container != held.Container {
			continue
		}
		if err := h.remove(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("cgroup of container %s: %w", held.Container, err))
		}
	}
	return errors.Join(errs...)
}

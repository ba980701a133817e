package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/troupe-run/troupe/backends"
)

// Held are the mounts and directories below Root that are of our making.
func (r *Rootfs) Held(ctx context.Context) ([]backends.Held, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Join(r.root, "pods")))
	if err != nil {
		return nil, fmt.Errorf("root file systems: mounts: %w", err)
	}
	var held []backends.Held
	for _, m := range mounts {
		if h, ok := r.heldAt("mount", m.Mountpoint); ok {
			held = append(held, h)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("root file systems: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join(glob(r.root), "pods", "*", "containers", "*", "*"))
	if err != nil {
		return nil, fmt.Errorf("root file systems: %w", err)
	}
	for _, dir := range dirs {
		if h, ok := r.heldAt("directory", dir); ok {
			held = append(held, h)
		}
	}
	return held, nil
}

// Drop removes one, and with it all else of the same container's root.
func (r *Rootfs) Drop(ctx context.Context, h backends.Held) error {
	if err := r.Unmount(ctx, h.Pod, h.Container); err != nil {
		return err
	}
	// Without a record nobody else removes these. Each goes only when empty.
	pod := filepath.Join(r.root, "pods", h.Pod)
	_ = os.Remove(filepath.Join(pod, "containers"))
	_ = os.Remove(pod)
	return nil
}

// heldAt reads pods/<pod>/containers/<id>/<name> back.
func (r *Rootfs) heldAt(kind, path string) (backends.Held, bool) {
	relative, err := filepath.Rel(r.root, path)
	if err != nil {
		return backends.Held{}, false
	}
	parts := strings.Split(relative, string(filepath.Separator))
	if len(parts) != 5 || parts[0] != "pods" || parts[2] != "containers" {
		return backends.Held{}, false
	}
	switch strings.TrimSuffix(parts[4], gone) {
	case "upper", "work", "rootfs":
	default:
		return backends.Held{}, false
	}
	if backends.CheckID("pod", parts[1]) != nil || backends.CheckID("container", parts[3]) != nil {
		return backends.Held{}, false
	}
	return backends.Held{Kind: kind, Pod: parts[1], Container: parts[3], Name: path}, true
}

// glob quotes what filepath.Glob would read as a pattern.
func glob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

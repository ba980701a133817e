package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	for _, m := range slices.Backward(mounts) { // what is mounted on another goes first
		if h, ok := r.heldAt("mount", m.Mountpoint); ok {
			held = append(held, h)
		} else if h, ok := r.strangeMount(m.Mountpoint); ok {
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

// strangeMount is a mount in a pod's directory that is no container's root: as
// long as the pod lives it is the pod's, whoever made it.
func (r *Rootfs) strangeMount(path string) (backends.Held, bool) {
	below, inside := strings.CutPrefix(path, filepath.Join(r.root, "pods")+"/")
	pod, _, _ := strings.Cut(below, "/")
	if !inside || !backends.IsOurs(pod) {
		return backends.Held{}, false
	}
	return backends.Held{Kind: "mount", Pod: pod, Name: path}, true
}

// Drop removes one, and with it all else of the same container's root.
func (r *Rootfs) Drop(ctx context.Context, h backends.Held) error {
	if h.Container == "" {
		return r.unmount(ctx, h.Name)
	}
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
	if !backends.IsOurs(parts[1]) || !backends.IsOurs(parts[3]) {
		return backends.Held{}, false
	}
	return backends.Held{Kind: kind, Pod: parts[1], Container: parts[3], Name: path}, true
}

// glob quotes what filepath.Glob would read as a pattern.
func glob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

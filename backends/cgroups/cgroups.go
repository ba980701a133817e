// Package cgroups keeps the parent cgroup of a pod's containers. The kubelet
// makes and removes the pod cgroups it asks for; only a pod that comes without
// one (crictl, critest) gets one of ours, <Parent>/pod-<id>.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// The cgroup managers, named as in crio.conf(5), cgroup_manager.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

// Config says who manages cgroups, and where those of ours go.
type Config struct {
	Manager string // Cgroupfs or Systemd; the kubelet's cgroupDriver must be the same
	// Parent of the pods for which the kubelet asked for none. Cgroupfs: a
	// path, "" is "/troupe"; it is removed when its last pod has gone, so two
	// daemons on a node need one each. Systemd: a slice, "" is "system.slice".
	Parent string
	// Containers' cgroups carry the attribute Mark, "<pod> <container> <owner>";
	// those of this Owner are held. Without a Mark none is.
	Mark, Owner string
	Log         *slog.Logger
}

// Backend implements backends.Cgroups on the kernel. It needs root.
type Backend struct {
	manager     string
	parent      string
	log         *slog.Logger
	hierarchies []hierarchy // of our own making
	everywhere  []hierarchy // where containers may be
	mark, owner string

	// Held while the parent may be removed or gets a child: a pod's cgroup
	// must not lose its parent between the two mkdirs.
	parentLock sync.Mutex
}

var _ backends.Cgroups = (*Backend)(nil)

// New looks at what is mounted and checks the configuration.
func New(c Config) (*Backend, error) {
	b := &Backend{manager: c.Manager, log: c.Log, mark: c.Mark, owner: c.Owner}
	if b.log == nil {
		b.log = slog.Default()
	}
	def := map[string]string{Cgroupfs: "/troupe", Systemd: "system.slice"}[c.Manager]
	if def == "" {
		return nil, messages.Errorf(messages.Invalid, "cgroup_manager %q: must be %q or %q", c.Manager, Cgroupfs, Systemd)
	}
	var err error
	if b.parent, err = b.form(defaultTo(c.Parent, def)); err != nil {
		return nil, fmt.Errorf("parent of pods without a cgroup: %w", err)
	}
	if c.Manager == Cgroupfs && b.parent == "/" {
		return nil, messages.Errorf(messages.Invalid, "parent of pods without a cgroup: must not be the root cgroup")
	}
	all, err := mounted()
	if err != nil {
		return nil, err
	}
	if b.mark != "" {
		b.everywhere = all
	}
	if c.Manager == Cgroupfs { // else systemd makes and removes the directories
		b.hierarchies = all
	}
	return b, nil
}

func defaultTo(value, def string) string {
	if value == "" {
		return def
	}
	return value
}

// Make gives the parent for the pod's containers. One the kubelet asked for is
// checked for its form and given back; it need not exist (whoever starts the
// first container in it makes it). None asked for: with cgroupfs one is made,
// with systemd it is the configured slice, in which each container gets a
// scope of its own.
func (b *Backend) Make(ctx context.Context, pod, requested string) (string, error) {
	if err := backends.CheckID("pod", pod); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if requested != "" {
		return b.form(requested)
	}
	if b.manager == Systemd {
		return b.parent, nil
	}
	own := b.own(pod)
	b.parentLock.Lock()
	defer b.parentLock.Unlock()
	for _, h := range b.hierarchies {
		if h.foreign {
			continue
		}
		dir := filepath.Join(h.mount, own)
		if err := os.MkdirAll(dir, 0o755); errors.Is(err, unix.ENOSPC) {
			return "", messages.Errorf(messages.Busy, "make cgroup %s: the kernel has no room for more cgroups: %w", dir, err)
		} else if err != nil {
			return "", fmt.Errorf("make cgroup: %w", err)
		}
	}
	return own, nil
}

const prefix = "pod-"

func (b *Backend) own(pod string) string { return path.Join(b.parent, prefix+pod) }

// Remove kills what still runs in the pod's own cgroup and removes it, on every
// hierarchy, and the parent with the last of them. A cgroup the kubelet asked
// for is not touched.
func (b *Backend) Remove(ctx context.Context, pod string) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	var errs []error
	for _, h := range b.hierarchies {
		if err := h.remove(ctx, filepath.Join(h.mount, b.own(pod))); err != nil {
			errs = append(errs, fmt.Errorf("cgroup of pod %s: %w", pod, err))
		}
	}
	b.parentLock.Lock()
	defer b.parentLock.Unlock()
	for _, h := range b.hierarchies {
		_ = unix.Rmdir(filepath.Join(h.mount, b.parent)) // refused while it has children, as it should
	}
	return errors.Join(errs...)
}

// Held is every pod cgroup of ours, once, whichever hierarchies have it, and
// every container's.
func (b *Backend) Held(ctx context.Context) ([]backends.Held, error) {
	held, err := b.containers(ctx)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, h := range b.hierarchies {
		dir := filepath.Join(h.mount, b.parent)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			pod, ours := strings.CutPrefix(e.Name(), prefix)
			if !ours || !e.IsDir() || seen[pod] || !backends.IsOurs(pod) {
				continue
			}
			seen[pod] = true
			held = append(held, backends.Held{Kind: "cgroup", Pod: pod, Name: filepath.Join(dir, e.Name())})
		}
	}
	return held, ctx.Err()
}

// Drop removes the pod's cgroup, or the container's, with what runs in it.
func (b *Backend) Drop(ctx context.Context, h backends.Held) error {
	if h.Container != "" {
		return b.dropContainer(ctx, h)
	}
	return b.Remove(ctx, h.Pod)
}

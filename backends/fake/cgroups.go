package fake

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

type cgroupsBackend struct{ n *Node }

// Make leaves the kubelet's cgroup alone: starting a container makes it.
func (b cgroupsBackend) Make(ctx context.Context, pod, requested string) (string, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Cgroups", Method: "Make", Pod: pod, Key: requested}, func() (string, error) {
		if requested != "" {
			if !path.IsAbs(requested) || path.Clean(requested) != requested || strings.HasSuffix(requested, ".slice") || strings.ContainsAny(requested, "\n\x00") {
				return "", messages.Errorf(messages.Invalid, "cgroup parent %q: must be an absolute, clean path as the cgroupfs manager has it", requested)
			}
			return requested, nil
		}
		n.cgroups[pod] = "/troupe/pod-" + pod
		return n.cgroups[pod], nil
	})
}

// Remove fails while a process is in it, as rmdir does.
func (b cgroupsBackend) Remove(ctx context.Context, pod string) error {
	n := b.n
	return n.call(ctx, Call{Backend: "Cgroups", Method: "Remove", Pod: pod}, func() error {
		if n.cgroups[pod] != "" && n.occupied(pod) {
			return errors.New("rmdir " + n.cgroups[pod] + ": device or resource busy: a container's cgroup is in it")
		}
		delete(n.cgroups, pod)
		delete(n.podLimits, pod)
		return nil
	})
}

func (b cgroupsBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Cgroups", Method: "Held"}, func() ([]backends.Held, error) { return n.heldCgroups(), nil })
}

func (n *Node) heldCgroups() (held []backends.Held) {
	for _, pod := range sorted(n.cgroups) {
		held = append(held, backends.Held{Kind: "cgroup", Pod: pod, Name: n.cgroups[pod]})
	}
	return held
}

func (b cgroupsBackend) Drop(ctx context.Context, h backends.Held) error { return b.Remove(ctx, h.Pod) }

package fake

import (
	"cmp"
	"context"
	"slices"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Unpack needs a checkpoint that is whole and a mounted root.
func (b checkpointsBackend) Unpack(ctx context.Context, r backends.UnpackRequest) (string, error) {
	n, c := b.n, Call{Backend: "Checkpoints", Method: "Unpack", Pod: r.Pod, Container: r.Container, Key: r.Dir}
	return ask(ctx, n, c, func() (string, error) {
		k := backends.Key{Pod: r.Pod, Container: r.Container}
		if root := n.roots[k]; root == nil || !root.mounted {
			return "", messages.Errorf(messages.Internal, "the root of %.12s is not mounted", r.Container)
		}
		if !n.written[r.Dir] {
			return "", messages.Errorf(messages.Invalid, "checkpoint_path %s: there is no checkpoint in it", r.Dir)
		}
		n.unpacked[k] = true
		return n.conf.Root + "/checkpoints/restore-" + r.Container, nil
	})
}

func (b checkpointsBackend) Forget(ctx context.Context, pod, container string) error {
	return b.Drop(ctx, backends.Held{Pod: pod, Container: container})
}

// Held names what was unpacked.
func (b checkpointsBackend) Held(ctx context.Context) ([]backends.Held, error) {
	return ask(ctx, b.n, Call{Backend: "Checkpoints", Method: "Held"}, func() ([]backends.Held, error) { return b.n.heldCheckpoints(), nil })
}

func (n *Node) heldCheckpoints() (held []backends.Held) {
	for k := range n.unpacked {
		held = append(held, backends.Held{Kind: "checkpoint", Pod: k.Pod, Container: k.Container, Name: k.Container})
	}
	slices.SortFunc(held, func(x, y backends.Held) int { return cmp.Compare(x.Container, y.Container) })
	return held
}

func (b checkpointsBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.n.call(ctx, Call{Backend: "Checkpoints", Method: "Forget", Pod: h.Pod, Container: h.Container}, func() error {
		delete(b.n.unpacked, backends.Key{Pod: h.Pod, Container: h.Container})
		return nil
	})
}

// Unpacked are the containers whose checkpoints are there, sorted.
func (n *Node) Unpacked() (ids []string) {
	n.change(func() {
		for k := range n.unpacked {
			ids = append(ids, k.Container)
		}
	})
	slices.Sort(ids)
	return ids
}

package fake

import (
	"context"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// root is a container's directory with upper and work, and the mount over it.
type root struct {
	image   string
	mounted bool
}

type rootfsBackend struct{ n *Node }

func (n *Node) rootPath(k backends.Key) string {
	return n.bundleDir(k) + "/rootfs"
}

// Mount needs the image, and needs it until Unmount: keeping it is the actors'
// business, and Invariants sees when they did not.
func (b rootfsBackend) Mount(ctx context.Context, r backends.RootfsRequest) (string, error) {
	n, k := b.n, backends.Key{Pod: r.Pod, Container: r.Container}
	c := Call{Backend: "Rootfs", Method: "Mount", Pod: r.Pod, Container: r.Container}
	return ask(ctx, n, c, func() (string, error) {
		if have := n.roots[k]; have != nil && have.mounted {
			return n.rootPath(k), nil
		}
		if err := n.store.whole(r.ImageID); err != nil {
			return "", err
		}
		if r.User != nil && n.inode(r.User.Path) == 0 {
			return "", messages.Errorf(messages.Internal, "the user namespace of the pod is not pinned at %q", r.User.Path)
		}
		if n.roots[k] == nil {
			if err := n.disk.take(smallFile); err != nil {
				return "", err
			}
			n.roots[k] = &root{}
		}
		if n.hook.Half(c) {
			return "", half("the directory is made and not mounted")
		}
		*n.roots[k] = root{image: r.ImageID, mounted: true}
		return n.rootPath(k), nil
	})
}

// Unmount detaches a root that is in use, as the real one does; what a process
// then lacks is seen by Invariants.
func (b rootfsBackend) Unmount(ctx context.Context, pod, container string) error {
	n, k := b.n, backends.Key{Pod: pod, Container: container}
	c := Call{Backend: "Rootfs", Method: "Unmount", Pod: pod, Container: container}
	return n.call(ctx, c, func() error {
		have := n.roots[k]
		if have == nil {
			return nil
		}
		if have.mounted {
			have.mounted = false
			if n.hook.Half(c) {
				return half("it is unmounted, the directory is there")
			}
		}
		delete(n.roots, k)
		n.disk.give(smallFile)
		return nil
	})
}

func (b rootfsBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Rootfs", Method: "Held"}, func() ([]backends.Held, error) { return n.heldRoots(), nil })
}

func (n *Node) heldRoots() (held []backends.Held) {
	for _, k := range sortedKeys(n.roots) {
		kind := "directory"
		if n.roots[k].mounted {
			kind = "mount"
		}
		held = append(held, backends.Held{Kind: kind, Pod: k.Pod, Container: k.Container, Name: n.rootPath(k)})
	}
	return held
}

func (b rootfsBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Unmount(ctx, h.Pod, h.Container)
}

package fake

import (
	"context"
	"fmt"
	"path"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// volumes are what a container mounts beside its root.
type volumes struct {
	images  []string // mounted
	mounted bool
}

type volumesBackend struct{ n *Node }

func (n *Node) volumesPath(k backends.Key) string {
	return n.bundleDir(k) + "/volumes"
}

// Mount needs the images, and needs them until Unmount: see rootfsBackend.Mount.
func (b volumesBackend) Mount(ctx context.Context, r backends.VolumesRequest) (backends.VolumePaths, error) {
	n, k := b.n, backends.Key{Pod: r.Pod, Container: r.Container}
	c := Call{Backend: "Volumes", Method: "Mount", Pod: r.Pod, Container: r.Container}
	return ask(ctx, n, c, func() (paths backends.VolumePaths, err error) {
		for _, v := range r.Images {
			if err := n.store.whole(v.ImageID); err != nil {
				return paths, messages.Errorf(messages.ImageVolumeMountFailed, "%w", err)
			}
		}
		if n.volumes[k] == nil {
			if err := n.disk.take(smallFile); err != nil {
				return paths, err
			}
			n.volumes[k] = &volumes{}
		}
		if n.hook.Half(c) {
			return paths, half("the directory is made and nothing is mounted")
		}
		have := &volumes{mounted: true}
		for i, v := range r.Images {
			have.images = append(have.images, v.ImageID)
			paths.Images = append(paths.Images, path.Join(n.volumesPath(k), fmt.Sprint("image-", i), v.SubPath))
		}
		for i, at := range r.Anonymous {
			if paths.Anonymous == nil {
				paths.Anonymous = map[string]string{}
			}
			paths.Anonymous[at] = path.Join(n.volumesPath(k), fmt.Sprint("anonymous-", i))
		}
		n.volumes[k] = have
		return paths, nil
	})
}

func (b volumesBackend) Unmount(ctx context.Context, pod, container string) error {
	n, k := b.n, backends.Key{Pod: pod, Container: container}
	c := Call{Backend: "Volumes", Method: "Unmount", Pod: pod, Container: container}
	return n.call(ctx, c, func() error {
		have := n.volumes[k]
		if have == nil {
			return nil
		}
		if have.mounted {
			have.mounted, have.images = false, nil
			if n.hook.Half(c) {
				return half("all is unmounted, the directory is there")
			}
		}
		delete(n.volumes, k)
		n.disk.give(smallFile)
		return nil
	})
}

// Relabel keeps no labels; it takes its time and can fail, as all calls.
func (b volumesBackend) Relabel(ctx context.Context, _ backends.Relabel, progress func(int64)) error {
	progress(1)
	return b.n.call(ctx, Call{Backend: "Volumes", Method: "Relabel"}, func() error { return nil })
}

func (b volumesBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Volumes", Method: "Held"}, func() ([]backends.Held, error) { return n.heldVolumes(), nil })
}

func (n *Node) heldVolumes() (held []backends.Held) {
	for _, k := range sortedKeys(n.volumes) {
		held = append(held, backends.Held{Kind: "volumes", Pod: k.Pod, Container: k.Container, Name: n.volumesPath(k)})
	}
	return held
}

func (b volumesBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Unmount(ctx, h.Pod, h.Container)
}

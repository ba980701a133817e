package fake

import (
	"context"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// podFiles are the shared files of a pod: written, and its own /dev/shm mounted.
type podFiles struct{ written, shm bool }

type filesBackend struct{ n *Node }

// These names are made too often for path.Join: ids are checked, and need no cleaning.
func (n *Node) podDir(pod string) string { return n.conf.Root + "/pods/" + pod }

func (n *Node) shmPath(pod string) string { return n.conf.Run + "/shm/" + pod }

func (b filesBackend) Make(ctx context.Context, r backends.FilesRequest) (backends.PodFiles, error) {
	n, c := b.n, Call{Backend: "Files", Method: "Make", Pod: r.Pod}
	return ask(ctx, n, c, func() (backends.PodFiles, error) {
		if err := checkLines(r); err != nil {
			return backends.PodFiles{}, err
		}
		f := n.files[r.Pod]
		if f == nil {
			if err := n.disk.take(smallFile); err != nil {
				return backends.PodFiles{}, err
			}
			f = &podFiles{}
			n.files[r.Pod] = f
		}
		if !f.written && n.hook.Half(c) {
			return backends.PodFiles{}, half("the directory is made, nothing is in it")
		}
		f.written = true
		made := backends.PodFiles{
			ResolvConf: n.podDir(r.Pod) + "/files/resolv.conf",
			Hostname:   n.podDir(r.Pod) + "/files/hostname",
			Shm:        "/dev/shm",
		}
		if !r.HostIPC {
			made.Shm, f.shm = n.shmPath(r.Pod), true
		}
		return made, nil
	})
}

// Remove unmounts first: a directory with a mount in it cannot be removed. A
// mount that is in use is detached.
func (b filesBackend) Remove(ctx context.Context, pod string) error {
	n, c := b.n, Call{Backend: "Files", Method: "Remove", Pod: pod}
	return n.call(ctx, c, func() error {
		f := n.files[pod]
		if f == nil {
			return nil
		}
		if f.shm {
			f.shm = false
			if n.hook.Half(c) {
				return half("/dev/shm is unmounted, the files are there")
			}
		}
		delete(n.files, pod)
		n.disk.give(smallFile)
		return nil
	})
}

// checkLines refuses what would become a line of its own in a file.
func checkLines(r backends.FilesRequest) error {
	words := append([]string{r.Hostname}, r.DNS.GetServers()...)
	words = append(append(words, r.DNS.GetSearches()...), r.DNS.GetOptions()...)
	for _, w := range words {
		if strings.ContainsAny(w, "\n\r\x00") {
			return messages.Errorf(messages.Invalid, "%q: has a line break or a zero byte", w)
		}
	}
	return nil
}

func (b filesBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Files", Method: "Held"}, func() ([]backends.Held, error) { return n.heldFiles(), nil })
}

func (n *Node) heldFiles() (held []backends.Held) {
	for _, pod := range sorted(n.files) {
		held = append(held, backends.Held{Kind: "files", Pod: pod, Name: n.podDir(pod) + "/files"})
		if n.files[pod].shm {
			held = append(held, backends.Held{Kind: "mount", Pod: pod, Name: n.shmPath(pod)})
		}
	}
	return held
}

func (b filesBackend) Drop(ctx context.Context, h backends.Held) error { return b.Remove(ctx, h.Pod) }

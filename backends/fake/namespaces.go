package fake

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// pins are the namespaces of a pod; a number is a namespace's inode, 0 is none.
type pins struct{ net, ipc, uts, user uint64 }

type namespacesBackend struct{ n *Node }

func (n *Node) pinPath(kind, pod string) string { return n.conf.Run + "/ns/" + kind + "/" + pod }

// Pin makes all or, when halved, only the first of the namespaces. Pins that
// are only partly there are made anew, as nobody has used them.
func (b namespacesBackend) Pin(ctx context.Context, r backends.NamespaceRequest) (messages.Namespaces, error) {
	n, c := b.n, Call{Backend: "Namespaces", Method: "Pin", Pod: r.Pod}
	return ask(ctx, n, c, func() (messages.Namespaces, error) {
		none := messages.Namespaces{}
		if err := checkSysctls(r); err != nil {
			return none, err
		}
		if r.UTS && len(r.Hostname) > 64 {
			return none, messages.Errorf(messages.Invalid, "hostname %q: longer than 64 bytes", r.Hostname)
		}
		if u := r.User; u != nil && (u.UIDs.Length == 0 || u.GIDs.Length == 0) {
			return none, messages.Errorf(messages.Invalid, "user namespace: nothing is mapped")
		}
		if !r.Network && !r.IPC && !r.UTS && r.User == nil {
			return none, nil
		}
		p := n.pins[r.Pod]
		if p == nil || (r.Network && p.net == 0) || (r.IPC && p.ipc == 0) || (r.UTS && p.uts == 0) || (r.User != nil && p.user == 0) {
			p = &pins{}
			n.pins[r.Pod] = p
			cut := n.hook.Half(c)
			for _, k := range []struct {
				want bool
				pin  *uint64
			}{{r.Network, &p.net}, {r.IPC, &p.ipc}, {r.UTS, &p.uts}, {r.User != nil, &p.user}} {
				if !k.want {
					continue
				}
				*k.pin = n.next()
				if cut {
					return none, half("one namespace is pinned")
				}
			}
		}
		return n.pinned(r), nil
	})
}

func (n *Node) pinned(r backends.NamespaceRequest) messages.Namespaces {
	var paths messages.Namespaces
	if r.Network {
		paths.Network = n.pinPath("net", r.Pod)
	}
	if r.IPC {
		paths.IPC = n.pinPath("ipc", r.Pod)
	}
	if r.UTS {
		paths.UTS = n.pinPath("uts", r.Pod)
	}
	if r.User != nil {
		paths.User = n.pinPath("user", r.Pod)
	}
	return paths
}

func (b namespacesBackend) Unpin(ctx context.Context, pod string) error {
	n, c := b.n, Call{Backend: "Namespaces", Method: "Unpin", Pod: pod}
	return n.call(ctx, c, func() error {
		p := n.pins[pod]
		if p == nil {
			return nil
		}
		if p.net != 0 && (p.ipc != 0 || p.uts != 0 || p.user != 0) && n.hook.Half(c) {
			p.net = 0
			return half("the network namespace is unpinned, others are not")
		}
		delete(n.pins, pod)
		return nil
	})
}

func (b namespacesBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Namespaces", Method: "Held"}, func() ([]backends.Held, error) { return n.heldPins(), nil })
}

func (b namespacesBackend) Pinned(ctx context.Context, pod string, paths messages.Namespaces) (bool, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Namespaces", Method: "Pinned", Pod: pod}, func() (bool, error) {
		for _, path := range []string{paths.Network, paths.IPC, paths.UTS, paths.User} {
			if path != "" && n.inode(path) == 0 {
				return false, nil
			}
		}
		return true, nil
	})
}

func (n *Node) heldPins() (held []backends.Held) {
	for _, pod := range sorted(n.pins) {
		p := n.pins[pod]
		for _, k := range []struct {
			kind  string
			inode uint64
		}{{"net", p.net}, {"ipc", p.ipc}, {"uts", p.uts}, {"user", p.user}} {
			if k.inode != 0 {
				held = append(held, backends.Held{Kind: k.kind + "ns", Pod: pod, Name: n.pinPath(k.kind, pod)})
			}
		}
	}
	return held
}

func (b namespacesBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Unpin(ctx, h.Pod)
}

// inode finds what is pinned at a path; 0: nothing.
func (n *Node) inode(pin string) uint64 {
	p := n.pins[path.Base(pin)]
	if p == nil {
		return 0
	}
	switch pin {
	case n.pinPath("net", path.Base(pin)):
		return p.net
	case n.pinPath("ipc", path.Base(pin)):
		return p.ipc
	case n.pinPath("uts", path.Base(pin)):
		return p.uts
	case n.pinPath("user", path.Base(pin)):
		return p.user
	}
	return 0
}

// checkSysctls refuses what would change the node, as the real backend does.
func checkSysctls(r backends.NamespaceRequest) error {
	for _, name := range sorted(r.Sysctls) {
		dotted := strings.ReplaceAll(name, "/", ".")
		ipc := dotted == "kernel.sem"
		for _, prefix := range []string{"kernel.shm", "kernel.msg", "fs.mqueue."} {
			ipc = ipc || strings.HasPrefix(dotted, prefix)
		}
		var reason string
		switch {
		case strings.HasPrefix(dotted, "net."):
			if !r.Network {
				reason = "the pod uses the node's network namespace"
			}
		case ipc:
			if !r.IPC {
				reason = "the pod uses the node's IPC namespace"
			}
		default:
			reason = "it is not namespaced"
		}
		if reason != "" {
			return messages.Errorf(messages.Invalid, "sysctl %s: %w", name, fmt.Errorf("%s: setting it would change the node", reason))
		}
	}
	return nil
}

package fake

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// network is a bridge with an address pool, as the plugins bridge, host-local
// and portmap make it.
type network struct {
	trouble   error // why pods cannot be attached
	owners    map[int]string
	last      int // handed out; the next one is tried first, as host-local does
	attached  map[string]*attachment
	ports     map[string]string // "TCP/0.0.0.0:80" to its pod
	watchers  []*Waiter
	attaching map[*byte]bool // calls under way
}

// attachment is what a pod has of the network. After a cut-off call it may
// have the address and no interface.
type attachment struct {
	address int
	netns   uint64
	owner   string // the pod whose namespace it is
	whole   bool
}

type networkBackend struct{ n *Node }

func (w *network) init() {
	w.owners, w.attached, w.ports = map[int]string{}, map[string]*attachment{}, map[string]string{}
	w.attaching = map[*byte]bool{}
}

// SetNetwork makes the network ready (nil) or says why it is not, and tells
// those who watch.
func (n *Node) SetNetwork(trouble error) {
	n.change(func() {
		n.network.trouble = trouble
		for _, w := range n.network.watchers {
			w.wake()
		}
	})
}

// Attach needs the namespace and a free address. Attaching again gives the
// same; what a failed attempt left is taken back first.
func (b networkBackend) Attach(ctx context.Context, r backends.NetworkRequest) (backends.NetworkResult, error) {
	n, c := b.n, Call{Backend: "Network", Method: "Attach", Pod: r.Pod}
	defer n.attaching()()
	return ask(ctx, n, c, func() (backends.NetworkResult, error) {
		none := backends.NetworkResult{}
		if n.network.trouble != nil {
			return none, messages.Errorf(messages.Unavailable, "network is not ready: %w", n.network.trouble)
		}
		netns := n.inode(r.NetNS)
		if netns == 0 {
			return none, messages.Errorf(messages.Precondition, "network namespace %q does not exist", r.NetNS)
		}
		if a := n.network.attached[r.Pod]; a != nil && a.whole && a.netns == netns {
			return n.result(a), nil
		}
		n.network.release(r.Pod)
		address, err := n.network.take(r.Pod, n.conf.Addresses)
		if err != nil {
			return none, err
		}
		a := &attachment{address: address, netns: netns, owner: path.Base(r.NetNS)}
		n.network.attached[r.Pod] = a
		if err := n.network.takePorts(r); err != nil {
			return none, err
		}
		if n.hook.Half(c) {
			return none, half("address " + n.ip(address) + " is taken, there is no interface")
		}
		a.whole = true
		return n.result(a), nil
	})
}

// attaching notes an Attach under way, also while its hook lets it wait.
func (n *Node) attaching() (ended func()) {
	token := new(byte)
	n.change(func() { n.network.attaching[token] = true })
	return func() { n.change(func() { delete(n.network.attaching, token) }) }
}

func (w *network) take(pod string, size int) (int, error) {
	for range size {
		w.last = w.last%size + 1
		if w.owners[w.last] == "" {
			w.owners[w.last] = pod
			return w.last, nil
		}
	}
	return 0, fmt.Errorf("no addresses available: all %d of the pool are in use", size)
}

func (w *network) takePorts(r backends.NetworkRequest) error {
	for _, m := range r.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s:%d", m.Protocol, m.HostIp, m.HostPort)
		if owner := w.ports[key]; owner != "" && owner != r.Pod {
			return messages.Errorf(messages.Precondition, "host port %s is in use by pod %s", key, owner)
		}
		w.ports[key] = r.Pod
	}
	return nil
}

func (b networkBackend) Detach(ctx context.Context, r backends.NetworkRequest) error {
	n, c := b.n, Call{Backend: "Network", Method: "Detach", Pod: r.Pod}
	return n.call(ctx, c, func() error {
		a := n.network.attached[r.Pod]
		if a != nil && a.whole && n.hook.Half(c) {
			a.whole = false
			return half("the interface is gone, the address is not given back")
		}
		n.network.release(r.Pod)
		return nil
	})
}

func (w *network) release(pod string) {
	if a := w.attached[pod]; a != nil {
		delete(w.owners, a.address)
		delete(w.attached, pod)
	}
	for key, owner := range w.ports {
		if owner == pod {
			delete(w.ports, key)
		}
	}
}

func (b networkBackend) Status(ctx context.Context) error {
	return b.n.call(ctx, Call{Backend: "Network", Method: "Status"}, func() error {
		if b.n.network.trouble != nil {
			return messages.Errorf(messages.Unavailable, "network is not ready: %w", b.n.network.trouble)
		}
		return nil
	})
}

// GC frees what no valid pod holds. It asks who is valid while the node is
// locked, and only when no Attach is under way: no pod can be missed.
func (b networkBackend) GC(ctx context.Context, valid func() []string) error {
	n := b.n
	return n.call(ctx, Call{Backend: "Network", Method: "GC"}, func() error {
		if attaching := len(n.network.attaching); attaching > 0 {
			return messages.Errorf(messages.Busy, "%d pods are being attached", attaching)
		}
		keep := map[string]bool{}
		for _, pod := range valid() {
			keep[pod] = true
		}
		for _, pod := range sorted(n.network.attached) {
			if !keep[pod] {
				n.network.release(pod)
			}
		}
		n.touchAll()
		return nil
	})
}

// SetRanges has no effect: the pool is what it is.
func (b networkBackend) SetRanges(ctx context.Context, _ []netip.Prefix) error {
	return b.n.call(ctx, Call{Backend: "Network", Method: "SetRanges"}, func() error { return nil })
}

func (b networkBackend) Watch(ctx context.Context, changed func()) error {
	n, w := b.n, &Waiter{}
	err := n.call(ctx, Call{Backend: "Network", Method: "Watch"}, func() error {
		n.network.watchers = append(n.network.watchers, w)
		return nil
	})
	defer n.change(func() {
		n.network.watchers = slices.DeleteFunc(n.network.watchers, func(o *Waiter) bool { return o == w })
	})
	for err == nil {
		if err = n.hook.Wait(ctx, w); err == nil {
			w.rest(time.Time{})
			changed()
		}
	}
	return err
}

func (b networkBackend) Held(ctx context.Context) ([]backends.Held, error) {
	n := b.n
	return ask(ctx, n, Call{Backend: "Network", Method: "Held"}, func() ([]backends.Held, error) { return n.heldAddresses(), nil })
}

func (n *Node) heldAddresses() (held []backends.Held) {
	for _, pod := range sorted(n.network.attached) {
		held = append(held, backends.Held{Kind: "address", Pod: pod, Name: n.ip(n.network.attached[pod].address)})
	}
	return held
}

func (b networkBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Detach(ctx, backends.NetworkRequest{Pod: h.Pod})
}

func (n *Node) ip(address int) string {
	host := address + 1 // .1 is the bridge's
	return fmt.Sprintf("10.%d.%d.%d", 88+host>>16, host>>8&255, host&255)
}

func (n *Node) result(a *attachment) backends.NetworkResult {
	ips := []string{n.ip(a.address)}
	if n.conf.DualStack {
		ips = append(ips, fmt.Sprintf("fd00:88::%x", a.address+1))
	}
	return backends.NetworkResult{IPs: ips}
}

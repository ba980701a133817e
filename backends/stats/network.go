package stats

import (
	"bytes"
	"context"
	"fmt"

	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// podInterface is the interface CNI makes in a pod (backends/cni).
const podInterface = "eth0"

// mostInterfaces bounds what a pod that may make interfaces can put into every
// list of the node.
const mostInterfaces = 128

// Networks reads the counters of pods' network namespaces, by pod id. A pod on
// the node's network has none of its own and is not in the answer, nor is one
// whose namespace has gone.
//
// One thread goes through the namespaces, and ends: a socket kept in each would
// keep the namespace alive after its pod.
func (m *Meter) Networks(ctx context.Context, pods []*messages.PodSnapshot) map[string]messages.NetworkUsage {
	found := make(map[string]messages.NetworkUsage, len(pods))
	var ask []*messages.PodSnapshot
	for _, p := range pods {
		if p.Namespaces.Network == "" {
			continue
		}
		if kept, ok := m.keep.network(p.ID, m.now()); ok {
			found[p.ID] = kept
		} else {
			ask = append(ask, p)
		}
	}
	if len(ask) == 0 {
		return found
	}
	thread.ThrownAway(func() {
		r := readers.Get().(*reader)
		defer readers.Put(r)
		for _, p := range ask {
			if ctx.Err() != nil {
				return
			}
			interfaces, err := r.interfaces(p.Namespaces.Network)
			if err != nil {
				m.log.Debug("no network counters of a pod", "pod", p.ID, "error", err)
				continue
			}
			found[p.ID] = m.keep.putNetwork(p.ID, messages.NetworkUsage{At: m.now(), Interfaces: interfaces})
		}
	})
	return found
}

// interfaces reads the counters of the namespace that is pinned at a path. It
// leaves the thread in it.
func (r *reader) interfaces(pin string) ([]messages.InterfaceUsage, error) {
	fd, err := unix.Open(pin, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", pin, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", pin, err)
	}
	text, err := r.read("/proc/thread-self/net/dev")
	if err != nil {
		return nil, err
	}
	return netDev(text), nil
}

// netDev reads "name: bytes packets errs drop … ×8 received, ×8 sent"
// (proc_pid_net(5)), the pod's default interface first, loopback left out.
func netDev(text []byte) (all []messages.InterfaceUsage) {
	for l := lines(text); ; {
		line, ok := l.next()
		if !ok {
			break
		}
		name, counters, ok := bytes.Cut(line, []byte{':'})
		name = bytes.TrimSpace(name)
		if !ok || string(name) == "lo" {
			continue // the two lines of headings have no colon
		}
		if len(all) == mostInterfaces && string(name) != podInterface {
			continue
		}
		var n [16]uint64
		w := words(counters)
		for i := range n {
			word, _ := w.next()
			n[i] = number(word).N
		}
		all = append(all, messages.InterfaceUsage{
			Name:    string(name),
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	for i := range all {
		if all[i].Name == podInterface {
			all[0], all[i] = all[i], all[0]
			break
		}
	}
	return all
}

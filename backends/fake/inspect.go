package fake

import (
	"fmt"
	"slices"

	"github.com/troupe-run/troupe/backends"
)

// Empty is what is left of pods on the node, one line each, sorted by backend;
// none when all pods have been removed. Images and blobs are not of pods.
func (n *Node) Empty() (left []string) {
	n.change(func() {
		for _, h := range n.held() {
			left = append(left, fmt.Sprintf("%s %s of pod %.12s container %.12s", h.Kind, h.Name, h.Pod, h.Container))
		}
		for _, port := range sorted(n.network.ports) {
			left = append(left, fmt.Sprintf("port %s of pod %.12s", port, n.network.ports[port]))
		}
		if owned := len(n.network.owners); owned > len(n.network.attached) {
			left = append(left, fmt.Sprintf("%d addresses without an attachment", owned-len(n.network.attached)))
		}
		left = append(left, n.miscounted()...)
		left = append(left, n.store.lost...)
	})
	return left
}

// held is what all backends hold.
func (n *Node) held() []backends.Held {
	return slices.Concat(n.heldProcesses(), n.heldCheckpoints(), n.heldBundles(), n.heldVolumes(), n.heldRoots(), n.heldAddresses(),
		n.heldFiles(), n.heldPins(), n.heldCgroups(), n.heldRecords())
}

// Invariants says what is wrong on the node, sorted; nothing, at any time and
// whatever failed, when the daemon does what it should. It looks only at pods
// that something has happened to since they were last found right, so that it
// can be asked after every step.
func (n *Node) Invariants() (wrong []string) {
	n.change(func() {
		for _, pod := range sorted(n.changed) {
			found := n.wrongPod(pod)
			if len(found) == 0 {
				delete(n.changed, pod)
			}
			wrong = append(wrong, found...)
		}
		wrong = append(wrong, n.misheard...)
	})
	slices.Sort(wrong)
	return wrong
}

// Changed are the containers, sorted, of the pods that Invariants has yet to look
// at.
func (n *Node) Changed() (containers []string) {
	n.change(func() {
		for pod := range n.changed {
			containers = append(containers, n.known[pod]...)
		}
	})
	slices.Sort(containers)
	return containers
}

// touch notes that something happens to a pod or container.
func (n *Node) touch(pod, container string) {
	n.changed[pod] = true
	if known := n.known[pod]; !slices.Contains(known, container) {
		n.known[pod] = append(known, container)
	}
}

// touchAll notes that something happens that may concern any pod.
func (n *Node) touchAll() {
	for pod := range n.known {
		n.changed[pod] = true
	}
}

// wrongPod checks one pod, and forgets what nothing is left of.
func (n *Node) wrongPod(pod string) (wrong []string) {
	say := func(container, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("pod %.12s container %.12s: ", pod, container)+fmt.Sprintf(format, args...))
	}
	left := n.wrongHoldings(pod, say)
	known := []string{""}
	for _, container := range n.known[pod] {
		if container == "" || !n.wrongContainer(backends.Key{Pod: pod, Container: container}, say) {
			continue
		}
		known, left = append(known, container), true
		if p := n.runtime.processes[container]; p != nil && p.alive() {
			n.wrongProcess(p, say)
		}
	}
	n.known[pod] = known
	if !left {
		delete(n.known, pod)
	}
	return wrong
}

type sayer func(container, format string, args ...any)

// wrongHoldings: what a pod holds has a record, so that it is found after the
// daemon's death; its address is its own and in its own namespace.
func (n *Node) wrongHoldings(pod string, say sayer) (left bool) {
	a := n.network.attached[pod]
	for _, h := range []struct {
		what string
		held bool
	}{
		{"an address", a != nil},
		{"namespaces", n.pins[pod] != nil},
		{"files", n.files[pod] != nil},
		{"a cgroup", n.cgroups[pod] != ""},
	} {
		left = left || h.held
		if h.held && !n.hasRecord(backends.Key{Pod: pod}) {
			say("", "%s without a record", h.what)
		}
	}
	if a != nil && n.network.owners[a.address] != pod {
		say("", "address %s is owned by %q", n.ip(a.address), n.network.owners[a.address])
	}
	if a != nil && a.owner != pod {
		say("", "address %s is in the network namespace of pod %.12s", n.ip(a.address), a.owner)
	}
	return left || n.records[backends.Key{Pod: pod}] != nil
}

// wrongContainer: the same of a container; and the image under a mounted root
// is there.
func (n *Node) wrongContainer(k backends.Key, say sayer) (left bool) {
	record, root := k, n.roots[k]
	if k.Container == k.Pod { // the pause process is the pod's own
		record.Container = ""
	}
	p := n.runtime.processes[k.Container]
	for _, h := range []struct {
		what string
		held bool
	}{
		{"a process, an exit or a cgroup", p != nil},
		{"a bundle", n.bundles[k] != nil},
		{"a root", root != nil},
		{"volumes", n.volumes[k] != nil},
	} {
		left = left || h.held
		if h.held && !n.hasRecord(record) {
			say(k.Container, "%s without a record", h.what)
		}
	}
	if root != nil && root.mounted && n.store.images[root.image] == nil {
		say(k.Container, "its root is mounted over image %.12s, which is gone", root.image)
	}
	if v := n.volumes[k]; v != nil {
		for _, image := range v.images {
			if n.store.images[image] == nil {
				say(k.Container, "it has image %.12s mounted as a volume, which is gone", image)
			}
		}
	}
	return left || n.records[k] != nil
}

// hasRecord: one that was torn does not count against the daemon.
func (n *Node) hasRecord(k backends.Key) bool {
	pod := backends.Key{Pod: k.Pod}
	return n.records[k] != nil || n.excused[k] || n.excused[pod] || n.rolled[k] || n.rolled[pod]
}

// wrongProcess: a living process has what it stands on.
func (n *Node) wrongProcess(p *process, say sayer) {
	lacks := func(what string) { say(p.Container, "process %d lives without its %s", p.Pid, what) }
	if r := n.roots[p.key()]; p.bundle.rootfs && (r == nil || !r.mounted) {
		lacks("root")
	}
	if v := n.volumes[p.key()]; p.bundle.volumes && (v == nil || !v.mounted) {
		lacks("volumes")
	}
	if n.bundles[p.key()] == nil {
		lacks("bundle")
	}
	if f := n.files[p.Pod]; p.bundle.shm && (f == nil || !f.shm) {
		lacks("/dev/shm")
	}
	for i, path := range []string{p.bundle.namespaces.Network, p.bundle.namespaces.IPC, p.bundle.namespaces.UTS} {
		if path != "" && n.inode(path) != p.bundle.inodes[i] {
			lacks("namespace " + path)
		}
	}
	if net := p.bundle.namespaces.Network; net != "" && n.network.attached[p.Pod] == nil {
		lacks("address")
	}
}

// miscounted checks the fake itself: the disk holds what it says it holds.
func (n *Node) miscounted() []string {
	used := int64(len(n.roots)+len(n.volumes)+len(n.bundles)+len(n.files)) * smallFile
	for _, r := range n.records {
		used += int64(len(r.data))
	}
	for _, l := range n.store.layers {
		if !l.missing {
			used += l.size
		}
	}
	for _, a := range n.store.aside {
		used += a.size
	}
	for _, b := range n.store.blobs {
		used += b.have
	}
	if used != n.disk.used {
		return []string{fmt.Sprintf("the fake has lost count of its disk: %d bytes are there, %d are counted", used, n.disk.used)}
	}
	return nil
}

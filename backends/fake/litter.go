package fake

import (
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Litters is how many kinds of litter there are.
const Litters = 8

// Litter leaves something under the name of a pod that nobody knows, as a
// removal by a broken tool does or a record that was lost. It says what. It is
// the sweeper's, and excused until then.
func (n *Node) Litter(pod string, kind int) (what string) {
	n.change(func() {
		container := backends.Key{Pod: pod, Container: pod[1:] + "0"}
		n.excused[backends.Key{Pod: pod}] = true
		n.touch(pod, "")
		switch kind {
		case 0:
			what, n.cgroups[pod] = "cgroup", "/kubepods/"+pod
		case 1:
			what, n.files[pod] = "files", &podFiles{written: true, shm: true}
			n.disk.used += smallFile
		case 2:
			address, err := n.network.take(pod, n.conf.Addresses)
			if err != nil {
				return
			}
			what, n.network.attached[pod] = "address", &attachment{address: address, owner: pod}
		case 3:
			what, n.roots[container] = "root", &root{}
		case 4:
			what, n.volumes[container] = "volumes", &volumes{mounted: true}
		case 5, 6:
			what, n.bundles[container] = "bundle", &bundle{}
		default:
			what = "namespaces"
			n.pins[pod] = &pins{net: n.next()}
		}
		if container := n.bundles[container]; container != nil && kind == 6 {
			n.litterProcess(pod)
			what = "process"
		}
		if kind >= 3 && kind <= 6 {
			n.disk.used += smallFile
			n.touch(pod, container.Container)
		}
	})
	return what
}

// litterProcess lets a process live in the pod's bundle that nobody asked for.
func (n *Node) litterProcess(pod string) {
	p := &process{}
	p.ProcessState = messages.ProcessState{Pod: pod, Container: pod[1:] + "0", Status: messages.ProcessRunning, Pid: int(n.next()), StartedAt: n.hook.Now()}
	n.runtime.processes[p.Container] = p
}

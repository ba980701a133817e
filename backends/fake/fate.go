package fake

import "github.com/troupe-run/troupe/messages"

// Kill ends a container's process as by itself: with a code, or above 128 by
// signal code-128; oom: by the kernel's OOM killer. It says whether a process
// was alive.
func (n *Node) Kill(container string, code int32, oom bool) (killed bool) {
	n.change(func() {
		p := n.runtime.processes[container]
		if p == nil || !p.alive() {
			return
		}
		killed = true
		e := ending{at: n.hook.Now(), code: code, oom: oom}
		if oom {
			e.code = 137
		}
		if e.code > 128 {
			e.signal = int(e.code - 128)
		}
		n.end(p, e)
	})
	return killed
}

// CrashMonitor kills the monitor. Its connections end; the processes live on;
// the next Connect starts another monitor, which adopts them.
func (n *Node) CrashMonitor() {
	n.change(func() {
		m := &n.runtime
		if !m.up {
			return
		}
		m.up, m.crashes = false, m.crashes+1
		m.disconnect()
		for _, id := range sorted(m.processes) {
			for _, w := range m.processes[id].execs {
				w.wake()
			}
		}
	})
}

// CrashDaemon ends what the calls of a daemon were waiting for: the monitor
// sees its connection close. The contexts of the calls are the caller's to end.
func (n *Node) CrashDaemon() {
	n.change(func() {
		n.runtime.disconnect()
		n.network.watchers = nil
		clear(n.network.attaching)
	})
}

func (m *monitor) disconnect() {
	for _, p := range m.processes { // the monitor does, or the next one
		p.frozen = false
	}
	if m.connection != nil {
		m.connection.lost = true
		m.connection.waiter.wake()
		m.connection = nil
	}
}

// startMonitor starts a monitor if none is there. It adopts what lives and
// finds out, as far as this kernel lets it, how ended what has ended.
func (n *Node) startMonitor() {
	m := &n.runtime
	if m.up {
		return
	}
	m.up = true
	for _, id := range sorted(m.processes) {
		p := m.processes[id]
		if p.unseen && !n.conf.ExitInfo {
			p.ExitUnknown, p.ExitedAt = true, n.hook.Now()
			p.ExitCode, p.Signal, p.OOMKilled = 0, 0, false
		}
		p.unseen = false
	}
}

// Reboot ends all processes, mounts, namespaces and cgroups; what is in /run
// is gone. Files on the disk stay, and so do addresses: Detach gives them back.
func (n *Node) Reboot() {
	n.CrashMonitor()
	n.change(func() {
		for _, id := range sorted(n.runtime.processes) {
			n.untime(n.runtime.processes[id])
		}
		n.touchAll()
		clear(n.runtime.processes)
		clear(n.pins)
		clear(n.cgroups)
		for _, r := range n.roots {
			r.mounted = false
		}
		for _, v := range n.volumes {
			v.mounted, v.images = false, nil
		}
		for _, f := range n.files {
			f.shm = false
		}
	})
}

// Process tells the truth about a container's process, whoever has seen it.
func (n *Node) Process(container string) (st messages.ProcessState, found bool) {
	n.change(func() {
		if p := n.runtime.processes[container]; p != nil && !p.half {
			st, found = p.ProcessState, true
		}
	})
	return st, found
}

// LogReopens is how often a container's log was reopened.
func (n *Node) LogReopens(container string) (times int) {
	n.change(func() {
		if p := n.runtime.processes[container]; p != nil {
			times = p.reopens
		}
	})
	return times
}

// Living are the containers whose process is alive, sorted.
func (n *Node) Living() (containers []string) {
	n.change(func() {
		for _, id := range sorted(n.runtime.processes) {
			if n.runtime.processes[id].alive() {
				containers = append(containers, id)
			}
		}
	})
	return containers
}

package fake

import (
	"fmt"
	"time"

	"github.com/troupe-run/troupe/messages"
)

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

// Undying makes a living process ignore SIGKILL until a time, as one that sleeps
// in the kernel does. It says whether there is one.
func (n *Node) Undying(container string, until time.Time) (found bool) {
	n.change(func() {
		if p := n.runtime.processes[container]; p != nil && p.alive() {
			p.undying, found = until, true
		}
	})
	return found
}

// Behind is a monitor that gets to what ends only when that is over: then it tells
// all of it at once.
func (n *Node) Behind(behind bool) {
	n.change(func() {
		n.runtime.behind = behind
		for _, p := range n.unreaped() {
			if !behind {
				p.lived = nil
				n.tell(p)
			}
		}
	})
}

// unreaped are the processes whose end the monitor has not got to.
func (n *Node) unreaped() (late []*process) {
	for _, id := range sorted(n.runtime.processes) {
		if p := n.runtime.processes[id]; p.lived != nil {
			late = append(late, p)
		}
	}
	return late
}

// CrashKeeper kills the monitor with its keeper: nobody sees what ends until the
// next Connect starts both anew.
func (n *Node) CrashKeeper() {
	n.change(func() {
		for _, p := range n.unreaped() { // neither had got to it
			p.unseen = true
			n.fates[p.Container] = fate{ProcessState: p.ProcessState, lost: !n.conf.ExitInfo}
		}
	})
	n.CrashMonitor()
	n.change(func() { n.runtime.keeper = false })
}

// CrashMonitor kills the monitor. Its connections end; the processes live on,
// and their keeper takes down how they end; the next Connect finds another
// monitor, which the keeper has started.
func (n *Node) CrashMonitor() {
	n.change(func() {
		m := &n.runtime
		if !m.up {
			return
		}
		m.up, m.behind, m.crashes = false, false, m.crashes+1
		for _, p := range n.unreaped() { // they are the keeper's
			p.lived = nil
		}
		m.disconnect()
		for _, id := range sorted(m.processes) {
			for _, w := range m.processes[id].execs {
				w.wake()
			}
		}
	})
}

// StepClock tells the node that its clock was set: what is due in a while is due
// in the same while.
func (n *Node) StepClock(by time.Duration) {
	n.mu.Lock() // nothing may be settled by the new clock before
	defer n.mu.Unlock()
	for _, p := range n.runtime.timed {
		p.ending.at = p.ending.at.Add(by)
	}
	for _, p := range n.runtime.processes {
		if !p.undying.IsZero() {
			p.undying = p.undying.Add(by)
		}
	}
	for _, r := range n.records {
		r.saved = r.saved.Add(by)
	}
	if c := n.runtime.connection; c != nil {
		c.waiter.wake()
	}
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
	m.up, m.keeper = true, true
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
	n.CrashKeeper()
	n.change(func() {
		for _, id := range sorted(n.runtime.processes) {
			p := n.runtime.processes[id]
			n.untime(p)
			st := p.ProcessState
			if p.alive() {
				st.ExitedAt = n.hook.Now()
			}
			n.fates[id] = fate{ProcessState: st, ended: !p.alive(), lost: true}
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

// fate is how a container's process ended.
type fate struct {
	messages.ProcessState
	lost bool // no monitor can have seen it, or the exit record is gone
	// ended: it ended before the exit record was lost, and may have been told.
	ended bool
}

// Invented says what is wrong with an exit the daemon shows; nothing when it is
// how the process ended. Not to know is right only when nobody can, and of what
// ended by itself before it ran its command.
func (n *Node) Invented(container string, code int32, unknown, oom bool) (wrong string) {
	n.change(func() {
		if p := n.runtime.processes[container]; p != nil && p.alive() {
			wrong = fmt.Sprintf("process %d lives", p.Pid)
			return
		}
		f, known := n.fates[container]
		switch {
		case known && !f.lost && f.StartedAt.IsZero() && f.Signal == 0: // what its init ended with by itself is no exit code
			if !unknown {
				wrong = "it never ran its command, and nobody killed it"
			}
		case unknown && known && !f.lost:
			wrong = fmt.Sprintf("its process ended with code %d, and that could be known", f.ExitCode)
		case unknown:
		case !known:
			wrong = "it never had a process that ended"
		case f.lost && !f.ended:
			wrong = "nobody saw how its process ended"
		case f.ExitCode != code || f.OOMKilled != oom:
			wrong = fmt.Sprintf("its process ended with code %d (out of memory: %v)", f.ExitCode, f.OOMKilled)
		}
	})
	return wrong
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

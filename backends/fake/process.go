package fake

import (
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// monitor is what daemons talk to. It can be down: processes live on without it,
// and what ends meanwhile the keeper takes down, its parent, which outlives it.
// Without either, nobody sees it.
type monitor struct {
	up, keeper bool
	crashes    int
	behind     bool                // it has a thousand zombies to reap before it gets to who ends now
	processes  map[string]*process // by container
	timed      []*process          // those that end by themselves, next first
	connection *connection         // the last daemon that connected, or nil
}

// process is a container's init process, or the record of its exit. Half made,
// it is only a cgroup.
type process struct {
	messages.ProcessState
	half    bool
	bundle  bundle
	reopens int
	limits  string // in force
	frozen  bool
	program Program
	ending  *ending // how it ends by itself
	// lived is what the monitor takes it for until it gets to its end; nil: what it is.
	lived   *messages.ProcessState
	unseen  bool      // it ended while there was neither a monitor nor a keeper
	undying time.Time // SIGKILL has its effect only then: it sleeps in the kernel
	execs   []*Waiter // who waits for commands in it
}

// ending is how and when a process ends.
type ending struct {
	at     time.Time
	code   int32
	signal int
	oom    bool
}

func (p *process) alive() bool {
	return !p.half && (p.Status == messages.ProcessCreated || p.Status == messages.ProcessRunning)
}

// seen is the process as the monitor knows it.
func (p *process) seen() messages.ProcessState {
	if p.lived != nil {
		return *p.lived
	}
	return p.ProcessState
}

func (p *process) key() backends.Key { return backends.Key{Pod: p.Pod, Container: p.Container} }

// occupied says whether the cgroup of any container of the pod is there: it is
// until Delete.
func (n *Node) occupied(pod string) bool {
	for _, p := range n.runtime.processes {
		if p.Pod == pod {
			return true
		}
	}
	return false
}

// settle ends the processes whose time has come.
func (n *Node) settle(now time.Time) {
	for len(n.runtime.timed) > 0 && !n.runtime.timed[0].ending.at.After(now) {
		p := n.runtime.timed[0]
		n.end(p, *p.ending)
	}
}

// slay is SIGKILL: one that sleeps in the kernel dies when it wakes. It says
// whether the process is dead.
func (n *Node) slay(p *process, now time.Time) bool {
	killed := ending{at: now, code: 137, signal: 9}
	if p.undying.After(now) {
		killed.at = p.undying
		n.endAt(p, killed)
		return false
	}
	n.end(p, killed)
	return true
}

// endAt sets the time at which a process will end, unless it ends earlier.
func (n *Node) endAt(p *process, e ending) {
	if p.ending != nil && !e.at.Before(p.ending.at) {
		return
	}
	n.untime(p)
	p.ending = &e
	i, _ := slices.BinarySearchFunc(n.runtime.timed, e.at, func(o *process, at time.Time) int {
		if o.ending.at.After(at) {
			return 1
		}
		return -1 // after those of the same time
	})
	n.runtime.timed = slices.Insert(n.runtime.timed, i, p)
	if c := n.runtime.connection; c != nil {
		c.waiter.wake() // it must look again at how long it may wait
	}
}

func (n *Node) untime(p *process) {
	if p.ending != nil {
		n.runtime.timed = slices.DeleteFunc(n.runtime.timed, func(o *process) bool { return o == p })
		p.ending = nil
	}
}

// end ends a living process. The monitor, if it is up, writes the exit down
// and tells it.
func (n *Node) end(p *process, e ending) {
	n.untime(p)
	n.changed[p.Pod] = true
	if n.runtime.up && n.runtime.behind {
		lived := p.ProcessState
		p.lived = &lived
	}
	p.Status, p.ExitedAt = messages.ProcessExited, e.at
	p.ExitCode, p.Signal, p.OOMKilled = e.code, e.signal, e.oom
	for _, w := range p.execs {
		w.wake()
	}
	p.unseen = !n.runtime.up && !n.runtime.keeper
	n.fates[p.Container] = fate{ProcessState: p.ProcessState, lost: p.unseen && !n.conf.ExitInfo}
	if n.runtime.up && p.lived == nil {
		n.tell(p)
	}
}

func (n *Node) tell(p *process) {
	if c := n.runtime.connection; c != nil {
		c.facts = append(c.facts, p.ProcessState)
		c.waiter.wake()
	}
}

// nextEnding is when the next process ends by itself; zero: none does.
func (n *Node) nextEnding() time.Time {
	if len(n.runtime.timed) == 0 {
		return time.Time{}
	}
	return n.runtime.timed[0].ending.at
}

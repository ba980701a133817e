package fake

import (
	"context"
	"strings"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

type runtimeBackend struct{ n *Node }

// withMonitor refuses a call while there is no monitor.
func (b runtimeBackend) withMonitor(ctx context.Context, c Call, effect func() error) error {
	return b.n.call(ctx, c, func() error {
		if !b.n.runtime.up {
			return messages.Errorf(messages.Unavailable, "the monitor cannot be reached: it does not run")
		}
		return effect()
	})
}

// askMonitor is ask for a process's state.
func (b runtimeBackend) askMonitor(ctx context.Context, c Call, effect func() (messages.ProcessState, error)) (messages.ProcessState, error) {
	var st messages.ProcessState
	err := b.withMonitor(ctx, c, func() (err error) {
		st, err = effect()
		return err
	})
	if err != nil {
		return messages.ProcessState{}, err
	}
	return st, nil
}

func runtimeCall(method, pod, container string) Call {
	return Call{Backend: "Runtime", Method: method, Pod: pod, Container: container}
}

// find is the process of a container of that pod, or nil.
func (n *Node) find(pod, container string) *process {
	p := n.runtime.processes[container]
	if p == nil || p.half || p.Pod != pod {
		return nil
	}
	return p
}

// Create needs all the process is made of. Creating again gives the same.
func (b runtimeBackend) Create(ctx context.Context, r backends.ProcessRequest) (messages.ProcessState, error) {
	n, c := b.n, runtimeCall("Create", r.Pod, r.Container)
	return b.askMonitor(ctx, c, func() (messages.ProcessState, error) {
		none := messages.ProcessState{}
		if p := n.find(r.Pod, r.Container); p != nil {
			return p.seen(), nil
		}
		k := backends.Key{Pod: r.Pod, Container: r.Container}
		written := n.bundles[k]
		if written == nil || r.Bundle != n.bundleDir(k) {
			return none, messages.Errorf(messages.Precondition, "bundle %s has no config.json", r.Bundle)
		}
		if written.torn {
			return none, messages.Errorf(messages.Internal, "%s/config.json: unexpected end of JSON input", r.Bundle)
		}
		if missing := n.missingFor(k, written); missing != "" {
			return none, messages.Errorf(messages.Precondition, "%s", missing)
		}
		p := &process{bundle: *written, half: true, limits: written.resources}
		p.ProcessState = messages.ProcessState{Pod: r.Pod, Container: r.Container}
		n.runtime.processes[r.Container] = p
		if n.hook.Half(c) {
			return none, half("the cgroup is made, there is no process")
		}
		p.half, p.Status, p.Pid = false, messages.ProcessCreated, int(n.next())
		p.program = n.conf.Programs(written.args)
		if r.Pause {
			p.program = Program{}
		}
		return p.ProcessState, nil
	})
}

// missingFor says what a process of that bundle lacks on the node.
func (n *Node) missingFor(k backends.Key, b *bundle) string {
	if b.rootfs && (n.roots[k] == nil || !n.roots[k].mounted) {
		return "root " + n.rootPath(k) + " is not mounted"
	}
	for i, path := range []string{b.namespaces.Network, b.namespaces.IPC, b.namespaces.UTS} {
		if path != "" && (n.inode(path) == 0 || n.inode(path) != b.inodes[i]) {
			return "namespace " + path + " does not exist any more"
		}
	}
	for _, path := range []string{b.namespaces.PID, b.target} {
		if path != "" && !n.hasPIDNamespace(path) {
			return "namespace " + path + " does not exist: its process has ended"
		}
	}
	return ""
}

// Start lets a created process run its command.
func (b runtimeBackend) Start(ctx context.Context, pod, container string) (messages.ProcessState, error) {
	n := b.n
	return b.askMonitor(ctx, runtimeCall("Start", pod, container), func() (messages.ProcessState, error) {
		none := messages.ProcessState{}
		p := n.find(pod, container)
		switch {
		case p == nil:
			return none, messages.Errorf(messages.NotFound, "container %.12s has no process", container)
		case p.Status == messages.ProcessRunning:
			return p.ProcessState, nil
		case p.Status != messages.ProcessCreated:
			return none, messages.Errorf(messages.Precondition, "container %.12s cannot be started: its process has exited", container)
		}
		now := n.hook.Now()
		if p.program.NotFound {
			n.end(p, ending{at: now, code: 128})
			return none, messages.Errorf(messages.Internal, "exec: %q: executable file not found in $PATH", p.bundle.args[0])
		}
		p.Status, p.StartedAt = messages.ProcessRunning, now
		started := p.ProcessState
		if p.program.Ends {
			n.endAt(p, ending{at: now.Add(p.program.After), code: p.program.Code, signal: p.program.signal()})
			n.settle(now)
		}
		return started, nil
	})
}

// Signal kills, is ignored, or begins an orderly end, as the program has it.
func (b runtimeBackend) Signal(ctx context.Context, pod, container, signal string, all bool) error {
	c := runtimeCall("Signal", pod, container)
	c.Key = signal
	return b.withMonitor(ctx, c, func() error {
		number, err := signalNumber(signal)
		if err != nil {
			return err
		}
		if p := b.n.find(pod, container); p != nil && p.alive() {
			b.n.deliver(p, number)
		}
		return nil
	})
}

// State never fails for an unknown container.
func (b runtimeBackend) State(ctx context.Context, pod, container string) (messages.ProcessState, error) {
	return b.askMonitor(ctx, runtimeCall("State", pod, container), func() (messages.ProcessState, error) {
		if p := b.n.find(pod, container); p != nil {
			return p.seen(), nil
		}
		return messages.ProcessState{Pod: pod, Container: container, Status: messages.ProcessGone}, nil
	})
}

// Delete kills first, then forgets. Half done, the exit record is left. What
// does not die is not forgotten.
func (b runtimeBackend) Delete(ctx context.Context, pod, container string) error {
	n, c := b.n, runtimeCall("Delete", pod, container)
	return b.withMonitor(ctx, c, func() error {
		p := n.runtime.processes[container]
		if p == nil || p.Pod != pod {
			return nil
		}
		if p.alive() {
			if now := n.hook.Now(); !n.slay(p, now) {
				return messages.Errorf(messages.Deadline, "process %d of container %.12s does not die of SIGKILL: it sleeps in the kernel", p.Pid, container)
			}
			if n.hook.Half(c) {
				return half("the process is killed, its cgroup and its exit record are there")
			}
		}
		if p.lived != nil {
			return messages.Errorf(messages.Deadline, "process %d of container %.12s is not reaped yet", p.Pid, container)
		}
		delete(n.runtime.processes, container)
		if f, known := n.fates[container]; known { // nobody can ask any more how it ended
			f.lost, f.ended = true, f.ended || !f.lost
			n.fates[container] = f
		}
		return nil
	})
}

func (b runtimeBackend) ReopenLog(ctx context.Context, pod, container string) error {
	return b.withMonitor(ctx, runtimeCall("ReopenLog", pod, container), func() error {
		p := b.n.find(pod, container)
		switch {
		case p == nil:
			return messages.Errorf(messages.NotFound, "container %.12s has no process", container)
		case p.Status != messages.ProcessRunning:
			return messages.Errorf(messages.Precondition, "the log of container %.12s cannot be reopened: it is %s", container, p.Status)
		}
		p.reopens++
		return nil
	})
}

func (b runtimeBackend) Held(ctx context.Context) (held []backends.Held, err error) {
	err = b.withMonitor(ctx, Call{Backend: "Runtime", Method: "Held"}, func() error {
		held = b.n.heldProcesses()
		return nil
	})
	return held, err
}

func (n *Node) heldProcesses() (held []backends.Held) {
	for _, id := range sorted(n.runtime.processes) {
		p := n.runtime.processes[id]
		kind := backends.HeldProcess
		switch {
		case p.half:
			kind = "cgroup"
		case p.seen().Status == messages.ProcessExited:
			kind = "exit"
		}
		held = append(held, backends.Held{Kind: kind, Pod: p.Pod, Container: id, Name: strings.Join([]string{"monitor", p.Pod, id}, "/")})
	}
	return held
}

func (b runtimeBackend) Drop(ctx context.Context, h backends.Held) error {
	return b.Delete(ctx, h.Pod, h.Container)
}

package fake

import (
	"context"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Freeze stops processes, all or none. The limit is not kept: nothing here
// hangs longer than its context.
func (b runtimeBackend) Freeze(ctx context.Context, pod string, containers []string, limit time.Duration) error {
	return b.withMonitor(ctx, runtimeCall("Freeze", pod, pod), func() error {
		if limit <= 0 {
			return messages.Errorf(messages.Invalid, "there is no limit of time")
		}
		for _, id := range containers {
			p := b.n.find(pod, id)
			switch {
			case p == nil:
				return messages.Errorf(messages.NotFound, "container %.12s has no process", id)
			case p.Status != messages.ProcessRunning:
				return messages.Errorf(messages.Precondition, "container %.12s is %s: it cannot be paused", id, p.Status)
			}
		}
		for _, id := range containers {
			b.n.find(pod, id).frozen = true
		}
		return nil
	})
}

func (b runtimeBackend) Thaw(ctx context.Context, pod string, containers []string) error {
	return b.withMonitor(ctx, runtimeCall("Thaw", pod, pod), func() error {
		for _, id := range containers {
			if p := b.n.find(pod, id); p != nil {
				p.frozen = false
			}
		}
		return nil
	})
}

// Dump captures what runs.
func (b runtimeBackend) Dump(ctx context.Context, pod, container, dir string) error {
	return b.withMonitor(ctx, runtimeCall("Dump", pod, container), func() error {
		p := b.n.find(pod, container)
		switch {
		case p == nil:
			return messages.Errorf(messages.NotFound, "container %.12s has no process", container)
		case p.Status != messages.ProcessRunning:
			return messages.Errorf(messages.Precondition, "container %.12s is %s, not running", container, p.Status)
		}
		return nil
	})
}

// Down says whether there is no monitor.
func (n *Node) Down() (down bool) {
	n.change(func() { down = !n.runtime.up })
	return down
}

// Frozen are the living containers that are paused, sorted.
func (n *Node) Frozen() (ids []string) {
	n.change(func() {
		for id, p := range n.runtime.processes {
			if p.frozen && p.alive() {
				ids = append(ids, id)
			}
		}
	})
	slices.Sort(ids)
	return ids
}

type checkpointsBackend struct{ n *Node }

func checkpointCall(method string, r backends.CheckpointRequest) Call {
	return Call{Backend: "Checkpoints", Method: method, Pod: r.Pod, Key: r.Archive + r.Dir}
}

func (b checkpointsBackend) Begin(ctx context.Context, r backends.CheckpointRequest) ([]string, error) {
	n := b.n
	return ask(ctx, n, checkpointCall("Begin", r), func() ([]string, error) {
		if r.Dir != "" && n.written[r.Dir] {
			return nil, messages.Errorf(messages.Invalid, "output_path %s: is not empty", r.Dir)
		}
		n.captures[r.Archive+r.Dir] = true
		var dirs []string
		for _, c := range r.Containers {
			dirs = append(dirs, n.conf.Root+"/checkpoints/"+c.ID)
		}
		return dirs, nil
	})
}

func (b checkpointsBackend) Finish(ctx context.Context, r backends.CheckpointRequest) error {
	n := b.n
	return n.call(ctx, checkpointCall("Finish", r), func() error {
		delete(n.captures, r.Archive+r.Dir)
		n.written[r.Archive+r.Dir] = true
		return nil
	})
}

func (b checkpointsBackend) Discard(ctx context.Context, r backends.CheckpointRequest) error {
	n := b.n
	return n.call(ctx, checkpointCall("Discard", r), func() error {
		delete(n.captures, r.Archive+r.Dir)
		delete(n.written, r.Dir)
		return nil
	})
}

// Check knows the checkpoints that were written.
func (b checkpointsBackend) Check(ctx context.Context, r backends.RestoreRequest) error {
	n := b.n
	return n.call(ctx, Call{Backend: "Checkpoints", Method: "Check", Pod: "restored", Key: r.Dir}, func() error {
		if !n.written[r.Dir] {
			return messages.Errorf(messages.Invalid, "checkpoint_path %s: there is no checkpoint in it", r.Dir)
		}
		return nil
	})
}

package fake

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// untilGone is ctx, ending also when the client has gone. The simulator's
// clients never go: for them nothing is added that it does not rule.
func untilGone(ctx context.Context, gone <-chan struct{}) (context.Context, func()) {
	if gone == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// ExecStream is Exec with a client's streams. A command named cat copies stdin,
// when there is one.
func (b runtimeBackend) ExecStream(ctx context.Context, r backends.ExecStreamRequest) (int32, error) {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	if r.Stdin != nil && len(r.Command) == 1 && r.Command[0] == "cat" {
		return 0, b.cat(ctx, r)
	}
	result, err := b.command(ctx, "ExecStream", backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: r.Command})
	if err != nil {
		return 0, err
	}
	for _, out := range []struct {
		to   io.Writer
		data []byte
	}{{r.Stdout, result.Stdout}, {r.Stderr, result.Stderr}} {
		if out.to != nil {
			_, _ = out.to.Write(out.data) // a client that cannot be written to is gone
		}
	}
	return result.ExitCode, nil
}

func (b runtimeBackend) cat(ctx context.Context, r backends.ExecStreamRequest) error {
	err := b.withMonitor(ctx, runtimeCall("ExecStream", r.Pod, r.Container), func() error {
		_, err := b.n.runs(r.Pod, r.Container)
		return err
	})
	if err == nil && r.Stdout != nil {
		_, err = io.Copy(r.Stdout, r.Stdin)
	}
	return err
}

// runs is the process of a container that runs.
func (n *Node) runs(pod, container string) (*process, error) {
	p := n.find(pod, container)
	switch {
	case p == nil:
		return nil, messages.Errorf(messages.NotFound, "container %.12s has no process", container)
	case p.Status != messages.ProcessRunning:
		return nil, messages.Errorf(messages.Precondition, "container %.12s does not run: it is %s", container, p.Status)
	}
	return p, nil
}

// Attach waits for the end of the container, the monitor, or the caller. A
// container prints nothing here.
func (b runtimeBackend) Attach(ctx context.Context, r backends.AttachRequest) error {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	n, waiter, crashes := b.n, &Waiter{}, 0
	var p *process
	err := b.withMonitor(ctx, runtimeCall("Attach", r.Pod, r.Container), func() (err error) {
		if p, err = n.runs(r.Pod, r.Container); err == nil {
			p.execs, crashes = append(p.execs, waiter), n.runtime.crashes
		}
		return err
	})
	if err != nil {
		return err
	}
	defer n.change(func() {
		p.execs = slices.DeleteFunc(p.execs, func(o *Waiter) bool { return o == waiter })
	})
	for {
		var over bool
		err := n.locked(func() error {
			waiter.rest(n.nextEnding())
			over = p.Status != messages.ProcessRunning
			if crashes != n.runtime.crashes {
				return messages.Errorf(messages.Unavailable, "the connection to the monitor ended: the monitor has died")
			}
			return nil
		})
		if err == nil && !over {
			err = n.hook.Wait(ctx, waiter)
		}
		if err != nil || over {
			return err
		}
	}
}

// Forward finds somebody on every port of a pod's network who sends back what
// is sent, and without a stream keeps the connection for as long as he may.
func (b namespacesBackend) Forward(ctx context.Context, r backends.ForwardRequest) error {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	n := b.n
	err := n.call(ctx, Call{Backend: "Namespaces", Method: "Forward", Pod: r.Pod}, func() error {
		if r.NetNS != "" && n.inode(r.NetNS) == 0 {
			return messages.Errorf(messages.Precondition, "pod %.12s has no network any more: %s does not exist", r.Pod, r.NetNS)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("port %d: %w", r.Port, err)
	}
	if r.Stream == nil {
		return n.hook.Wait(ctx, &Waiter{})
	}
	_, err = io.Copy(r.Stream, r.Stream)
	return err
}

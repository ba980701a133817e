package monitor

import (
	"context"
	"slices"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

type none struct{}

// Create makes the init process. With libcontainer it goes on in the monitor
// when ctx ends, and a second call joins it; with another runtime it ends, and
// what was made is taken back. A handler that is not configured is an error of
// kind Precondition.
func (c *Client) Create(ctx context.Context, r backends.ProcessRequest) (messages.ProcessState, error) {
	rt, err := c.runtimeOf(r.Handler)
	if err != nil {
		return messages.ProcessState{}, err
	}
	op := wire.OpCreate
	if r.Images != "" {
		op = wire.OpCreateRestored
	}
	ref := wire.Ref{Pod: r.Pod, Container: r.Container}
	return c.state(ctx, ref, op, wire.Create{
		Ref: ref, Bundle: r.Bundle, LogPath: r.LogPath,
		Stdin: r.Stdin, StdinOnce: r.StdinOnce, TTY: r.TTY, Pause: r.Pause, Runtime: rt, Images: r.Images,
	})
}

// runtimeOf is nil for libcontainer.
func (c *Client) runtimeOf(handler string) (*wire.Runtime, error) {
	if handler == "" || handler == Builtin {
		return nil, nil
	}
	rt, ok := c.cfg.Handlers[handler]
	if !ok {
		return nil, messages.Errorf(messages.Precondition, "runtime handler %q is not usable on this node any more: no container can be made with it; configure it again, or remove the pod", handler)
	}
	rt.Name = handler
	return &rt, nil
}

// Start lets the user's command run. An error of kind Internal leaves the
// container exited with code 128.
func (c *Client) Start(ctx context.Context, pod, container string) (messages.ProcessState, error) {
	ref := wire.Ref{Pod: pod, Container: container}
	return c.state(ctx, ref, wire.OpStart, ref)
}

// Signal sends a signal to init, or to every process of the container.
func (c *Client) Signal(ctx context.Context, pod, container, signal string, all bool) error {
	_, err := call[none](ctx, c, wire.OpSignal, wire.Signal{Ref: wire.Ref{Pod: pod, Container: container}, Signal: signal, All: all})
	return err
}

// State is the truth about an init process at this moment.
func (c *Client) State(ctx context.Context, pod, container string) (messages.ProcessState, error) {
	ref := wire.Ref{Pod: pod, Container: container}
	return c.state(ctx, ref, wire.OpState, ref)
}

// Delete kills what is left and forgets the container.
func (c *Client) Delete(ctx context.Context, pod, container string) error {
	_, err := call[none](ctx, c, wire.OpDelete, wire.Ref{Pod: pod, Container: container})
	return err
}

// Exec runs a command. When ctx ends, the monitor kills it.
func (c *Client) Exec(ctx context.Context, r backends.ExecRequest) (messages.ExecResult, error) {
	res, err := call[wire.ExecResult](ctx, c, wire.OpExec, wire.Exec{
		Ref: wire.Ref{Pod: r.Pod, Container: r.Container}, Command: r.Command, Timeout: r.Timeout,
	})
	return messages.ExecResult{Stdout: res.Stdout, Stderr: res.Stderr, ExitCode: res.ExitCode}, err
}

// ReopenLog returns when the new file is in use. It asks a second time when the
// monitor went meanwhile: a kubelet puts the old file back after an error, over
// the new one that may be in use by then.
func (c *Client) ReopenLog(ctx context.Context, pod, container string) error {
	_, err := call[none](ctx, c, wire.OpReopen, wire.Ref{Pod: pod, Container: container})
	if messages.KindOf(err) == messages.Unavailable && err != nil {
		_, err = call[none](ctx, c, wire.OpReopen, wire.Ref{Pod: pod, Container: container})
	}
	return err
}

// Upgrade has the monitor make room for the program that is now at its path:
// requests under way are waited for, sessions end, containers are not touched.
func (c *Client) Upgrade(ctx context.Context) error {
	_, err := call[none](ctx, c, wire.OpUpgrade, nil)
	return err
}

// Held names every container the monitor knows, running or not, and what is
// left of creates that failed.
func (c *Client) Held(ctx context.Context) ([]backends.Held, error) {
	states, err := call[[]wire.State](ctx, c, wire.OpList, nil)
	if err != nil {
		return nil, err
	}
	held := make([]backends.Held, 0, len(states))
	for _, st := range states {
		held = append(held, backends.Held{Kind: backends.HeldProcess, Pod: st.Pod, Container: st.Container, Name: c.cfg.Dir + "/state/" + st.Key()})
	}
	return held, nil
}

// Drop deletes what Held named.
func (c *Client) Drop(ctx context.Context, h backends.Held) error {
	return c.Delete(ctx, h.Pod, h.Container)
}

// Quit ends the monitor. It refuses (Precondition) while there are containers.
func (c *Client) Quit(ctx context.Context) error {
	_, err := call[none](ctx, c, wire.OpQuit, nil)
	return err
}

// state does a request whose answer is a container's state.
func (c *Client) state(ctx context.Context, ref wire.Ref, op string, request any) (messages.ProcessState, error) {
	st, err := call[wire.State](ctx, c, op, request)
	if err == nil && (st.Ref != ref || !known(st)) {
		err = messages.Errorf(messages.Internal, "troupe-monitor answered %q about pod %s, container %s with %q about pod %s, container %s: is it of another version?",
			op, ref.Pod, ref.Container, st.Status, st.Pod, st.Container)
	}
	if err != nil {
		return messages.ProcessState{}, err
	}
	return processState(st), nil
}

// known says whether a state can be understood. Actors are not told others:
// nothing true follows from them.
func known(s wire.State) bool {
	return slices.Contains([]string{wire.Created, wire.Running, wire.Exited, wire.Gone}, s.Status)
}

func processState(s wire.State) messages.ProcessState {
	return messages.ProcessState{
		Pod: s.Pod, Container: s.Container, Status: messages.ProcessStatus(s.Status), Pid: s.Pid,
		StartedAt: s.StartedAt, ExitedAt: s.ExitedAt, ExitCode: s.ExitCode, Signal: s.Signal,
		OOMKilled: s.OOMKilled, ExitUnknown: s.ExitUnknown,
	}
}

var kinds = map[string]messages.Kind{
	wire.Internal: messages.Internal, wire.NotFound: messages.NotFound, wire.Invalid: messages.Invalid,
	wire.Exists: messages.Exists, wire.Precondition: messages.Precondition, wire.Deadline: messages.Deadline,
	wire.Canceled: messages.Canceled, wire.NoSpace: messages.NoSpace, wire.Busy: messages.Busy,
}

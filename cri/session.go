package cri

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/troupe-run/troupe/messages"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// running is an exec or attach between cri-streaming, which brings a client's
// streams, and the node. Streams that the RPC did not ask for are not passed on,
// whatever the protocol has made of them.
type running struct {
	*session
	options *remotecommand.Options
	command []string
}

// ExecInContainer implements remotecommand.Executor. An exit code other than 0
// is an error of the form that the protocols know how to tell.
func (r *running) ExecInContainer(_ context.Context, _, _, container string, command []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	c, err := r.node.View().Container(container)
	if err != nil {
		return err
	}
	code, err := ask(r.ctx(), r.node, messages.ExecStream{
		Call: r.call(), Pod: c.Pod, Container: c.ID, Command: command, TTY: tty, Streams: r.streamsOf(in, out, errs, resize),
	})
	if err != nil {
		return r.failed(err)
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// AttachContainer implements remotecommand.Attacher.
func (r *running) AttachContainer(_ context.Context, _, _, container string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := r.node.View().Container(container)
	if err != nil {
		return err
	}
	_, err = ask(r.ctx(), r.node, messages.Attach{Call: r.call(), Pod: c.Pod, Container: c.ID, Streams: r.streamsOf(in, out, errs, resize)})
	return r.failed(err)
}

// failed notes why a session failed, unless its client went, which is how most
// of them end.
func (s *session) failed(err error) error {
	if err != nil && s.ctx().Err() == nil {
		s.about = append(s.about, "error", err)
	}
	return err
}

func (r *running) streamsOf(in io.Reader, out, errs io.Writer, resize <-chan remotecommand.TerminalSize) messages.Streams {
	s := messages.Streams{Resize: sizes(r.ctx(), resize), Gone: r.gone()}
	if r.options.Stdin {
		s.Stdin = in
	}
	if r.options.Stdout {
		s.Stdout = out
	}
	if r.options.Stderr {
		s.Stderr = errs
	}
	return s
}

// sizes turns cri-streaming's sizes into ours, until the client has gone.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan messages.TerminalSize {
	if in == nil {
		return nil
	}
	out := make(chan messages.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- messages.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// forwarding is portforward.PortForwarder; many ports may go over one session.
type forwarding struct{ *session }

// PortForward implements portforward.PortForwarder.
func (f forwarding) PortForward(_ context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	_, err := ask(f.ctx(), f.node, messages.PortForward{Call: f.call(), Pod: pod, Port: port, Stream: stream, Gone: f.gone()})
	return err
}

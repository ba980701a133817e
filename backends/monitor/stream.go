package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

// firstSize is how long a command with a terminal waits for the size of the
// client's: a program that asks at once should not be told 0 by 0. Clients send
// it first of all.
const firstSize = 100 * time.Millisecond

// ExecStream runs a command whose stdio are pipes made here, or a terminal
// whose master comes here.
func (c *Client) ExecStream(ctx context.Context, r backends.ExecStreamRequest) (int32, error) {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	l := &link{streams: r.Streams}
	defer l.close()
	request := wire.ExecStream{
		Ref: wire.Ref{Pod: r.Pod, Container: r.Container}, Command: r.Command, TTY: r.TTY,
		Stdin: r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil && !r.TTY,
	}
	if r.TTY {
		size := firstOf(ctx, r.Resize)
		request.Width, request.Height = size.Width, size.Height
	} else if err := l.pipes(request.Stdin, request.Stdout, request.Stderr); err != nil {
		return 0, err
	}
	body, err := c.converse(ctx, l, wire.OpExecStream, request)
	if err != nil {
		return 0, err
	}
	var end wire.ExecEnd
	if err := json.Unmarshal(body, &end); err != nil {
		return 0, fmt.Errorf("decode how the command ended: %w", err)
	}
	return end.ExitCode, nil
}

// Attach joins the streams to a running container's.
func (c *Client) Attach(ctx context.Context, r backends.AttachRequest) error {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	l := &link{streams: r.Streams, attach: true}
	defer l.close()
	request := wire.Attach{
		Ref: wire.Ref{Pod: r.Pod, Container: r.Container}, Stdin: r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil,
	}
	if err := l.pipes(false, request.Stdout, request.Stderr); err != nil {
		return err
	}
	_, err := c.converse(ctx, l, wire.OpAttach, request)
	return err
}

// untilGone is ctx, ending also when the client has gone.
func untilGone(ctx context.Context, gone <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if gone == nil {
		return ctx, cancel
	}
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// firstOf is the first size that comes soon; zero: none did.
func firstOf(ctx context.Context, sizes <-chan messages.TerminalSize) messages.TerminalSize {
	if sizes == nil {
		return messages.TerminalSize{}
	}
	limit := time.NewTimer(firstSize)
	defer limit.Stop()
	select {
	case size := <-sizes:
		return size
	case <-limit.C:
	case <-ctx.Done():
	}
	return messages.TerminalSize{}
}

package conformance

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

func execStreams(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	for _, tty := range []bool{false, true} {
		var out bytes.Buffer
		code, err := c.ExecStream(context30s(t), backends.ExecStreamRequest{
			Pod: r.Pod, Container: r.Container, Command: c.Echo, TTY: tty, Streams: messages.Streams{Stdout: &out},
		})
		must(t, err)
		if strings.TrimSpace(out.String()) != "hello" || code != 3 {
			t.Errorf("tty %v: stdout %q, code %d", tty, out.String(), code)
		}
	}
	var out bytes.Buffer
	code, err := c.ExecStream(context30s(t), backends.ExecStreamRequest{
		Pod: r.Pod, Container: r.Container, Command: c.Cat, Streams: messages.Streams{Stdin: strings.NewReader("a\nb"), Stdout: &out},
	})
	must(t, err)
	if out.String() != "a\nb" || code != 0 {
		t.Errorf("the end of stdin: %q, code %d", out.String(), code)
	}
	_, err = c.ExecStream(context30s(t), backends.ExecStreamRequest{Pod: r.Pod, Container: ID(t), Command: c.Echo})
	wantErrorKind(t, err, messages.NotFound)
	_, err = c.ExecStream(context30s(t), backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container})
	wantErrorKind(t, err, messages.Invalid)
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", false))
	c.exit(t, r)
	_, err = c.ExecStream(context30s(t), backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container, Command: c.Echo})
	wantErrorKind(t, err, messages.Precondition)
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func execStreamEnds(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	begin := func(ctx context.Context, gone chan struct{}) chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := c.ExecStream(ctx, backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container, Command: c.Hang, Streams: messages.Streams{Gone: gone}})
			ended <- err
		}()
		return ended
	}
	ctx, cancel := context.WithCancel(context30s(t))
	gone := make(chan struct{})
	for _, s := range []struct {
		ended chan error
		end   func()
	}{{begin(ctx, nil), cancel}, {begin(context30s(t), gone), func() { close(gone) }}} {
		select {
		case err := <-s.ended:
			t.Errorf("it ended by itself: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		s.end()
		wantErrorKind(t, <-s.ended, messages.Canceled)
	}
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
}

func attaches(t *testing.T, c *connected) {
	r := c.run(t, Sleeps)
	ended, gone := make(chan error, 1), make(chan struct{})
	begin := func(gone chan struct{}) {
		go func() {
			ended <- c.Attach(context30s(t), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdout: &bytes.Buffer{}, Gone: gone}})
		}()
		select {
		case err := <-ended:
			t.Errorf("it ended by itself: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	begin(gone)
	close(gone)
	wantErrorKind(t, <-ended, messages.Canceled)
	c.wantStatus(t, r, messages.ProcessRunning)
	begin(nil)
	must(t, c.Signal(context30s(t), r.Pod, r.Container, "SIGKILL", false))
	must(t, <-ended)
	err := c.Attach(context30s(t), backends.AttachRequest{Pod: r.Pod, Container: r.Container})
	wantErrorKind(t, err, messages.Precondition)
	must(t, c.Delete(context30s(t), r.Pod, r.Container))
	wantErrorKind(t, c.Attach(context30s(t), backends.AttachRequest{Pod: r.Pod, Container: r.Container}), messages.NotFound)
}

package monitor_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// attached is an attach under way.
type attached struct {
	out, err screen
	typed    *io.PipeWriter
	gone     chan struct{}
	ended    chan error
}

func (n *node) attach(r backends.ProcessRequest) *attached {
	a := &attached{gone: make(chan struct{}), ended: make(chan error, 1)}
	var in io.Reader
	in, a.typed = io.Pipe()
	go func() {
		a.ended <- n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{
			Stdin: in, Stdout: &a.out, Stderr: &a.err, Gone: a.gone,
		}})
	}()
	return a
}

func TestAttachSpeaksToTheContainersOwnProcess(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`while read x; do echo "got $x"; echo "bad $x" >&2; done; echo end; exit 6`))
	r.Stdin = true
	n.run(r)
	one, two := n.attach(r), n.attach(r)
	n.eventually("both see it", func() bool { // once they are attached, which nobody tells
		fmt.Fprintln(one.typed, "a")
		return one.out.has("got a\n")() && two.out.has("got a\n")() && two.err.has("bad a\n")()
	})
	close(one.gone)
	<-one.ended
	fmt.Fprintln(two.typed, "b")
	n.eventually("stdin goes on after an attach", two.out.has("got b\n"))
	_ = two.typed.Close()
	three := n.attach(r) // without StdinOnce the end of one attach's stdin is nobody else's
	fmt.Fprintln(three.typed, "c")
	n.eventually("and after the end of one's input", three.out.has("got c\n"))
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*attached{two, three} {
		if err := <-a.ended; err != nil {
			t.Errorf("after the container's end: %v", err)
		}
	}
	if log := n.log(r); !strings.Contains(log, "stdout F got b") || !strings.Contains(log, "stderr F bad c") {
		t.Errorf("log: %s", log)
	}
	wantKind(t, n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container}), messages.Precondition, "exited")
}

func TestStdinOnceEndsWithTheFirstAttach(t *testing.T) {
	n := newNode(t)
	for name, leave := range map[string]func(*attached){
		"its input ends": func(a *attached) { _ = a.typed.Close() },
		"it goes":        func(a *attached) { close(a.gone) },
	} {
		r := n.container(shell(`cat; echo; echo end; exit 6`))
		r.Stdin, r.StdinOnce = true, true
		n.run(r)
		a := n.attach(r)
		fmt.Fprint(a.typed, "tail without newline")
		n.eventually("it is read", a.out.has("tail without newline"))
		leave(a)
		if e := n.exit(r); e.ExitCode != 6 {
			t.Errorf("%s: %+v", name, e)
		}
		if err := <-a.ended; name == "its input ends" && (err != nil || !a.out.has("\nend\n")()) {
			t.Errorf("%s: %v, %q", name, err, a.out.String())
		}
	}
}

func TestAttachToATerminal(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`while read x; do stty size; done`), func(s *specs.Spec) { s.Process.Terminal = true })
	r.TTY, r.Stdin, r.StdinOnce = true, true, true
	n.run(r)
	for range 2 { // a terminal outlives its first attach
		var out screen
		in, typed := io.Pipe()
		sizes, gone, ended := make(chan messages.TerminalSize), make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{
				Stdin: in, Stdout: &out, Resize: sizes, Gone: gone,
			}})
		}()
		sizes <- messages.TerminalSize{Width: 77, Height: 33}
		time.Sleep(50 * time.Millisecond) // taken, not yet set
		fmt.Fprint(typed, "x\r")
		n.eventually("its size", out.has("x\r\n33 77\r\n"))
		close(gone)
		<-ended
	}
}

// stuck never takes anything.
type stuck struct{ until chan struct{} }

func (s stuck) Write([]byte) (int, error) {
	<-s.until
	return 0, io.ErrClosedPipe
}

func TestAStuckClientDoesNotStopAContainer(t *testing.T) {
	n := newNode(t)
	for _, interactive := range []bool{false, true} {
		r := n.container(shell(`while [ ! -e /tmp/go ]; do sleep 0.05; done; rm /tmp/go; head -c 8000000 /dev/zero | tr '\0' x; echo; echo through; sleep 1000`))
		r.Stdin = interactive
		n.run(r)
		open := stuck{make(chan struct{})}
		ended := make(chan error, 1)
		go func() {
			ended <- n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdout: open}})
		}()
		began := time.Now()
		time.Sleep(200 * time.Millisecond) // attached
		if _, err := n.Exec(n.ctx(), execRequest(r, `touch /tmp/go`)); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			wantKind(t, err, messages.Busy, "attached client")
		case <-time.After(30 * time.Second * slowness()):
			t.Error("the client is not thrown out")
		}
		if took := time.Since(began); interactive != (took > 9*time.Second) {
			t.Errorf("interactive %v: thrown out after %v", interactive, took)
		}
		n.eventually("the container is through", func() bool { return strings.Contains(n.log(r), "stdout F through") })
		close(open.until)
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Error(err)
		}
	}
}

// measured takes everything, slowly.
type measured struct{ n int }

func (m *measured) Write(p []byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	m.n += len(p)
	return len(p), nil
}

func TestAnInteractiveContainerWaitsForAClientThatIsOnlySlow(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`read go; head -c 20000000 /dev/zero`))
	r.Stdin, r.StdinOnce = true, true
	n.run(r)
	var out measured
	in, typed := io.Pipe()
	go fmt.Fprintln(typed, "go")
	err := n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdin: in, Stdout: &out}})
	if err != nil || out.n != 20000000 {
		t.Errorf("%d bytes, %v", out.n, err)
	}
	n.exit(r)
}

package monitor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/messages"
)

// screen is a client's stdout that a test reads while it is written.
type screen struct{ testlog.Log }

func (s *screen) has(text string) func() bool {
	return func() bool { return strings.Contains(s.String(), text) }
}

func streamed(r backends.ProcessRequest, script string, s messages.Streams) backends.ExecStreamRequest {
	return backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container, Command: shell(script), Streams: s}
}

func TestAStreamedExecHasThreeStreamsAndAnExitCode(t *testing.T) {
	n := newNode(t)
	r := sleeper(n, func(s *specs.Spec) { s.Process.User.UID, s.Process.Cwd = 1000, "/tmp" })
	var out, errs screen
	code, err := n.ExecStream(n.ctx(), streamed(r, `cat; echo "$WHO $(id -u) $(pwd)"; echo again >/dev/stdout; echo bad >&2; exit 3`,
		messages.Streams{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs}))
	if err != nil || code != 3 || out.String() != "in\ncontainer 1000 /tmp\nagain\n" || errs.String() != "bad\n" {
		t.Errorf("code %d, %v, stdout %q, stderr %q", code, err, out.String(), errs.String())
	}
	code, err = n.ExecStream(n.ctx(), streamed(r, `kill -9 $$`, messages.Streams{Stdout: &out}))
	if err != nil || code != 137 {
		t.Errorf("killed: %d, %v", code, err)
	}
}

func TestNothingIsLostOfFiftyMegabytesEachWay(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	data := make([]byte, 50<<20)
	_, _ = rand.Read(data)
	sum := sha256.New()
	code, err := n.ExecStream(n.ctx(), streamed(r, `cat`, messages.Streams{Stdin: bytes.NewReader(data), Stdout: sum}))
	if want := sha256.Sum256(data); err != nil || code != 0 || !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Errorf("code %d, %v, sums differ: %v", code, err, !bytes.Equal(sum.Sum(nil), want[:]))
	}
}

// slow takes its time with each write.
type slow struct{ screen }

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(300 * time.Millisecond)
	return s.screen.Write(p)
}

func TestWhatIsInThePipeWhenTheProcessEndsIsDelivered(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	var out slow // longer than the linger for each 32 KiB
	began := time.Now()
	_, err := n.ExecStream(n.ctx(), streamed(r, `head -c 60000 /dev/zero; sleep 3101 &`, messages.Streams{Stdout: &out}))
	if err != nil || len(out.String()) != 60000 {
		t.Errorf("%d bytes, %v", len(out.String()), err)
	}
	if took := time.Since(began); took > 10*time.Second*slowness() {
		t.Errorf("waited %v for who holds the pipe", took)
	}
}

func TestATerminalHasTheClientsSizeFromTheStartAndFollowsIt(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	var out screen
	in, typed := io.Pipe()
	sizes := make(chan messages.TerminalSize, 1)
	sizes <- messages.TerminalSize{Width: 123, Height: 45}
	ended := make(chan error, 1)
	go func() {
		code, err := n.ExecStream(n.ctx(), backends.ExecStreamRequest{
			Pod: r.Pod, Container: r.Container, Command: shell(`stty size; echo $TERM; read x; stty size; tty; exit 5`), TTY: true,
			Streams: messages.Streams{Stdin: in, Stdout: &out, Resize: sizes},
		})
		if code != 5 {
			err = fmt.Errorf("code %d, %w", code, err)
		}
		ended <- err
	}()
	n.eventually("the first size", out.has("45 123\r\nxterm\r\n"))
	sizes <- messages.TerminalSize{Width: 80, Height: 24}
	n.eventually("the size is taken", func() bool { return len(sizes) == 0 })
	time.Sleep(50 * time.Millisecond) // taken, not yet set
	fmt.Fprint(typed, "x\r")
	if err := <-ended; err != nil || !out.has("24 80\r\n/dev/pts/")() {
		t.Errorf("%v: %q", err, out.String())
	}
	_ = typed.Close()
}

func TestAnExecWhoseClientVanishesLeavesNoProcess(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	for _, tty := range []bool{false, true} {
		var out screen
		in, _ := io.Pipe()
		gone, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := n.ExecStream(n.ctx(), backends.ExecStreamRequest{
				Pod: r.Pod, Container: r.Container, Command: shell(`trap "" HUP TERM; (sleep 4101 &); echo up; sleep 4102; sleep 4103`), TTY: tty,
				Streams: messages.Streams{Stdin: in, Stdout: &out, Gone: gone},
			})
			ended <- err
		}()
		n.eventually("it runs", out.has("up"))
		close(gone)
		wantKind(t, <-ended, messages.Canceled, "")
		n.eventually("nothing of it is left", func() bool { return running("sleep\x00410") == 0 })
	}
	var out screen
	ctx, cancel := context.WithCancel(n.ctx())
	ended := make(chan error, 1)
	go func() {
		_, err := n.ExecStream(ctx, streamed(r, `echo up; sleep 4104`, messages.Streams{Stdout: &out}))
		ended <- err
	}()
	n.eventually("it runs", out.has("up"))
	cancel()
	<-ended
	n.eventually("nothing of it is left", func() bool { return running("sleep\x00410") == 0 })
}

func TestAStreamedExecSaysWhatIsWrong(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	for _, tty := range []bool{false, true} {
		_, err := n.ExecStream(n.ctx(), backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container, Command: []string{"nosuch"}, TTY: tty, Streams: messages.Streams{Stdout: io.Discard}})
		wantKind(t, err, messages.Internal, `exec: "nosuch": executable file not found in $PATH`)
	}
	_, err := n.ExecStream(n.ctx(), backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container})
	wantKind(t, err, messages.Invalid, "empty")
	_, err = n.ExecStream(n.ctx(), backends.ExecStreamRequest{Pod: newID(), Container: newID(), Command: shell("true")})
	wantKind(t, err, messages.NotFound, "not known")
	wantKind(t, n.Attach(n.ctx(), backends.AttachRequest{Pod: newID(), Container: newID()}), messages.NotFound, "not known")
}

// monitorFds counts the descriptors of the monitor.
func (n *node) monitorFds() int {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.monitorPid()))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(fds)
}

func TestAHundredSessionsAtOnceLeaveNoDescriptors(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`while :; do echo tick; sleep 0.2; done`), func(s *specs.Spec) {})
	n.run(r)
	_, _ = n.ExecStream(n.ctx(), streamed(r, `true`, messages.Streams{Stdout: io.Discard}))
	before := n.monitorFds()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			var out screen
			if i%4 == 0 {
				gone, ended := make(chan struct{}), make(chan error, 1)
				go func() {
					ended <- n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdout: &out, Gone: gone}})
				}()
				n.eventually("a tick", out.has("tick"))
				close(gone)
				<-ended
				return
			}
			in := fmt.Sprintf("line %d\n", i)
			code, err := n.ExecStream(n.ctx(), backends.ExecStreamRequest{
				Pod: r.Pod, Container: r.Container, Command: shell(`head -n 1; exit 4`), TTY: i%4 == 1,
				Streams: messages.Streams{Stdin: strings.NewReader(in), Stdout: &out},
			})
			if err != nil || code != 4 || !strings.Contains(out.String(), strings.TrimSpace(in)) {
				t.Errorf("session %d: code %d, %v, %q", i, code, err, out.String())
			}
		})
	}
	all.Wait()
	n.eventually("the monitor has as many descriptors as before", func() bool { return n.monitorFds() <= before })
}

func TestOtherRuntimesStreamTheSame(t *testing.T) {
	n := newNode(t)
	for handler := range ociRuntimes() {
		r := n.container(shell(`while read x; do echo "got $x"; stty size; done`), func(s *specs.Spec) { s.Version, s.Process.Terminal = "1.0.2", true })
		r.Handler, r.TTY, r.Stdin = handler, true, true
		n.run(r)
		var out, errs screen
		code, err := n.ExecStream(n.ctx(), streamed(r, `cat; echo bad >&2; exit 3`, messages.Streams{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs}))
		if err != nil || code != 3 || out.String() != "in\n" || errs.String() != "bad\n" {
			t.Errorf("%s: code %d, %v, %q, %q", handler, code, err, out.String(), errs.String())
		}
		sizes := make(chan messages.TerminalSize, 1)
		sizes <- messages.TerminalSize{Width: 99, Height: 44}
		var screen1 screen
		code, err = n.ExecStream(n.ctx(), backends.ExecStreamRequest{
			Pod: r.Pod, Container: r.Container, Command: shell(`tty; stty size; exit 4`), TTY: true, Streams: messages.Streams{Stdout: &screen1, Resize: sizes},
		})
		if err != nil || code != 4 || !screen1.has("44 99")() || !screen1.has("/dev/pts/")() {
			t.Errorf("%s: terminal: code %d, %v, %q", handler, code, err, screen1.String())
		}
		var up screen
		gone, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := n.ExecStream(n.ctx(), streamed(r, `trap "" HUP; echo up; sleep 4201; sleep 4201`, messages.Streams{Stdout: &up, Gone: gone}))
			ended <- err
		}()
		n.eventually("it runs", up.has("up"))
		close(gone)
		<-ended
		n.eventually("nothing of it is left", func() bool { return running("sleep\x004201") == 0 })
		a := n.attach(r)
		fmt.Fprint(a.typed, "x\r")
		n.eventually("attach", a.out.has("got x"))
		close(a.gone)
		<-a.ended
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Error(err)
		}
	}
}

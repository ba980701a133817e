package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/testlog"
	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// transports are those that crictl speaks.
var transports = []string{"spdy", "websocket"}

// screen is what a client of a session sees; a test reads it meanwhile.
type screen struct{ testlog.Log }

func (s *screen) shows(text string) func() bool {
	return func() bool { return strings.Contains(s.String(), text) }
}

// sitting is a crictl session under way.
type sitting struct {
	cmd      *exec.Cmd
	out, err screen
	keys     io.WriteCloser
	terminal *os.File // with a terminal
	ended    chan error
}

func (n *node) sit(t *testing.T, args ...string) *sitting {
	t.Helper()
	s := &sitting{cmd: n.crictl.Command(args...), ended: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	s.keys = must(s.cmd.StdinPipe())(t)
	s.begin(t)
	return s
}

// sitBefore is sit before a terminal.
func (n *node) sitBefore(t *testing.T, columns, rows uint16, args ...string) *sitting {
	t.Helper()
	s := &sitting{cmd: n.crictl.Command(args...), ended: make(chan error, 1)}
	person, program, err := harness.Terminal(columns, rows)
	ok(t, err)
	defer program.Close()
	s.keys, s.terminal = person, person
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = program, program, program
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.begin(t)
	go func() { _, _ = io.Copy(&s.out, person) }() // EIO at its end
	return s
}

func (s *sitting) begin(t *testing.T) {
	t.Helper()
	ok(t, s.cmd.Start())
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.keys.Close()
		if t.Failed() {
			t.Logf("%s:\n%s\n%s", s.cmd.Args, s.out.String(), s.err.String())
		}
	})
}

func (s *sitting) end(t *testing.T) int {
	t.Helper()
	select {
	case err := <-s.ended:
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			return exit.ExitCode()
		case err != nil:
			t.Fatal(err)
		}
		return 0
	case <-time.After(30 * time.Second):
		t.Fatal("the session does not end")
		return -1
	}
}

// processes counts those of the node whose command line has words.
func processes(words string) (count int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), words) && !strings.Contains(string(data), "crictl") {
			count++
		}
	}
	return count
}

func TestExecStreamsInputOutputAndTheExitCode(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	for _, transport := range transports {
		s := n.sit(t, "exec", "-r", transport, "-i", c.id, "sh", "-c", "cat; echo bad >&2; exit 7")
		fmt.Fprint(s.keys, "one\ntwo\n")
		eventually(t, "the first lines", s.out.shows("one\ntwo\n"))
		fmt.Fprint(s.keys, "three")
		ok(t, s.keys.Close())
		code := s.end(t)
		equal(t, transport+": stdout", s.out.String(), "one\ntwo\nthree")
		contains(t, transport+": stderr", s.err.String(), "bad", "exit code 7")
		if code == 0 {
			t.Errorf("%s: crictl ends with 0", transport)
		}
		s = n.sit(t, "exec", "-r", transport, c.id, "nosuch")
		if code := s.end(t); code == 0 {
			t.Errorf("%s: a command that does not exist ends with 0", transport)
		}
		contains(t, transport+": the complaint", s.err.String(), `nosuch`, `executable file not found in $PATH`)
	}
}

func TestFiftyMegabytesGoThroughUnchanged(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	data := make([]byte, 50<<20)
	_, _ = rand.Read(data)
	for _, transport := range transports {
		cmd := n.crictl.Command("exec", "-r", transport, "-i", c.id, "cat")
		sum := sha256.New()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), sum, os.Stderr
		ok(t, cmd.Run())
		equal(t, transport+": the sum", fmt.Sprintf("%x", sum.Sum(nil)), fmt.Sprintf("%x", sha256.Sum256(data)))
	}
}

func TestATerminalHasItsSizeAndFollowsIt(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	for _, transport := range transports {
		s := n.sitBefore(t, 91, 37, "exec", "-r", transport, "-it", c.id, "sh", "-c", "stty size; echo $TERM; trap 'stty size' WINCH; while :; do sleep 0.1; done")
		eventually(t, "the size at the start", s.out.shows("37 91\r\nxterm\r\n"))
		ok(t, harness.Resize(s.terminal, 60, 20))
		ok(t, s.cmd.Process.Signal(syscall.SIGWINCH))
		eventually(t, "the size that was changed to", s.out.shows("20 60\r\n"))
		fmt.Fprint(s.keys, "\x03") // the terminal inside makes it SIGINT
		s.end(t)
	}
}

func TestAnExecWhoseClientIsKilledLeavesNoProcess(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	for i, transport := range transports {
		words := fmt.Sprintf("sleep\x0077%d", i)
		s := n.sit(t, "exec", "-r", transport, c.id, "sh", "-c", fmt.Sprintf("trap '' HUP TERM; echo up; sleep 77%d; sleep 77%d", i, i))
		eventually(t, "it runs", s.out.shows("up"))
		ok(t, s.cmd.Process.Kill())
		eventually(t, transport+": the command has gone", func() bool { return processes(words) == 0 })
	}
}

// Nobody reads the client's connection while the command does not take its
// stdin; the end of the client stands behind what it has sent.
func TestAClientThatIsNotReadFromIsMissedToo(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	for _, transport := range transports {
		s := n.sit(t, "exec", "-r", transport, "-i", c.id, "sleep", "7799")
		eventually(t, "it runs", func() bool { return processes("sleep\x007799") > 0 })
		_, _ = s.keys.Write(make([]byte, 100<<10)) // more than a pipe holds
		ok(t, s.cmd.Process.Kill())
		<-s.ended
		eventually(t, transport+": the command has gone", func() bool { return processes("sleep\x007799") == 0 })
	}
}

func TestAttachSpeaksToTheContainer(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	for _, transport := range transports {
		c := p.start(t, `while read x; do echo "got $x"; done; exit 9`, func(c *runtime.ContainerConfig) { c.Stdin = true })
		one := n.sit(t, "attach", "-r", transport, "-i", c.id)
		fmt.Fprintln(one.keys, "a")
		eventually(t, "the answer", one.out.shows("got a"))
		ok(t, one.cmd.Process.Kill())
		<-one.ended
		two := n.sit(t, "attach", "-r", transport, "-i", c.id)
		fmt.Fprintln(two.keys, "b")
		eventually(t, "the answer to the second", two.out.shows("got b"))
		n.run(t, "stop", "-t", "0", c.id)
		two.end(t)
		contains(t, "the log", c.log(t), "got a", "got b")
	}
}

func TestStdinOnceEndsWithTheFirstAttach(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, `cat; exit 9`, func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	s := n.sit(t, "attach", "-i", c.id)
	fmt.Fprint(s.keys, "all of it")
	eventually(t, "the answer", s.out.shows("all of it"))
	ok(t, s.keys.Close())
	equal(t, "its exit code", c.exited(t).ExitCode, 9)
}

func TestAttachToATerminal(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, `while read x; do stty size; done`, func(c *runtime.ContainerConfig) { c.Stdin, c.Tty = true, true })
	for i, transport := range transports {
		s := n.sitBefore(t, uint16(70+i), 30, "attach", "-r", transport, "-it", c.id)
		time.Sleep(500 * time.Millisecond) // crictl tells the size when it is there
		fmt.Fprint(s.keys, "x\r")
		eventually(t, "its size", s.out.shows(fmt.Sprintf("30 %d\r\n", 70+i)))
		ok(t, s.cmd.Process.Kill())
		<-s.ended
	}
	equal(t, "exec works beside it", c.exec(t, "echo yes"), "yes")
}

func TestPortsAreForwarded(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "mkdir -p /www && head -c 3000000 /dev/zero >/www/big && echo hello >/www/index.html && exec httpd -f -p 8080 -h /www")
	eventually(t, "it serves", func() bool { return c.exec(t, "wget -q -O - http://127.0.0.1:8080/ || true") == "hello" })
	for _, transport := range transports {
		s := n.sit(t, "port-forward", "-r", transport, p.id, "0:8080")
		eventually(t, "it listens", s.out.shows("Forwarding from 127.0.0.1:"))
		line := s.out.String()[strings.Index(s.out.String(), "127.0.0.1:"):]
		address, _, _ := strings.Cut(line, " ")
		for range 5 {
			equal(t, "the page", fetch(t, "http://"+address+"/"), "hello\n")
		}
		equal(t, "the length of a large one", len(fetch(t, "http://"+address+"/big")), 3000000)
		ok(t, s.cmd.Process.Signal(syscall.SIGINT))
		s.end(t)
	}
	// Nobody listens: the client is told, and the next forward works.
	s := n.sit(t, "port-forward", p.id, "0:8081")
	eventually(t, "it listens", s.out.shows("Forwarding from 127.0.0.1:"))
	address, _, _ := strings.Cut(s.out.String()[strings.Index(s.out.String(), "127.0.0.1:"):], " ")
	if _, err := http.Get("http://" + address); err == nil {
		t.Error("a port on which nobody listens answers")
	}
	eventually(t, "the complaint", s.err.shows("refused"))
	n.run(t, "stopp", p.id)
	_, err := n.cri.Runtime.PortForward(t.Context(), &runtime.PortForwardRequest{PodSandboxId: p.id})
	refused(t, err, code(codes.FailedPrecondition), "not ready")
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	r, err := client.Get(url)
	ok(t, err)
	defer r.Body.Close()
	return string(must(io.ReadAll(r.Body))(t))
}

func TestATokenIsGoodOnce(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	r, err := n.cri.Runtime.Exec(t.Context(), &runtime.ExecRequest{ContainerId: c.id, Cmd: []string{"true"}, Stdout: true})
	ok(t, err)
	if !strings.HasPrefix(r.Url, "http://127.0.0.1:") {
		t.Errorf("url %s", r.Url)
	}
	for _, want := range []int{http.StatusBadRequest, http.StatusNotFound} { // the first is taken in, and asks for no upgrade
		answer, err := http.Get(r.Url)
		ok(t, err)
		_ = answer.Body.Close()
		equal(t, "the status", answer.StatusCode, want)
	}
}

func TestSessionsThatCannotBeAreRefusedByTheRPC(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	created, runs := p.create(t, "exec sleep 100000"), p.start(t, "exec sleep 100000")
	for _, bad := range []struct {
		r    *runtime.ExecRequest
		want codes.Code
	}{
		{&runtime.ExecRequest{ContainerId: runs.id, Cmd: []string{"true"}}, codes.InvalidArgument},
		{&runtime.ExecRequest{ContainerId: runs.id, Stdout: true}, codes.InvalidArgument},
		{&runtime.ExecRequest{ContainerId: runs.id, Cmd: []string{"true"}, Tty: true, Stderr: true, Stdout: true}, codes.InvalidArgument},
		{&runtime.ExecRequest{ContainerId: created.id, Cmd: []string{"true"}, Stdout: true}, codes.FailedPrecondition},
		{&runtime.ExecRequest{ContainerId: strings.Repeat("0", 64), Cmd: []string{"true"}, Stdout: true}, codes.NotFound},
	} {
		_, err := n.cri.Runtime.Exec(t.Context(), bad.r)
		equal(t, fmt.Sprint(bad.r), status.Code(err), bad.want)
	}
	_, err := n.cri.Runtime.PortForward(t.Context(), &runtime.PortForwardRequest{PodSandboxId: p.id, Port: []int32{70000}})
	equal(t, "a port that is none", status.Code(err), codes.InvalidArgument)
	_, err = n.cri.Runtime.Attach(t.Context(), &runtime.AttachRequest{ContainerId: created.id, Stdout: true})
	equal(t, "attach to what does not run", status.Code(err), codes.FailedPrecondition)
}

func TestTheDaemonsDeathEndsSessionsAndNoContainer(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	c := n.pod(t).start(t, `while read x; do echo "got $x"; done`, func(c *runtime.ContainerConfig) { c.Stdin = true })
	s := n.sit(t, "exec", c.id, "sh", "-c", "trap '' HUP TERM; echo up; sleep 7801; sleep 7801")
	a := n.sit(t, "attach", "-i", c.id)
	fmt.Fprintln(a.keys, "a")
	eventually(t, "both are up", func() bool { return s.out.shows("up")() && a.out.shows("got a")() })
	pid := c.pid(t)
	ok(t, n.daemon.Kill())
	eventually(t, "the command has gone", func() bool { return processes("sleep\x007801") == 0 })
	s.end(t)
	a.end(t)
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the container's pid", c.pid(t), pid)
	later := n.sit(t, "attach", "-i", c.id)
	fmt.Fprintln(later.keys, "b")
	eventually(t, "an attach works again", later.out.shows("got b"))
	// SIGTERM: sessions do not hold the daemon up.
	began := time.Now()
	ok(t, n.daemon.Stop())
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the daemon waited %v for a session", took)
	}
	later.end(t)
	ok(t, n.daemon.Start(t.Context()))
}

func TestSessionsByTLSAndANewCertificate(t *testing.T) {
	var cert, key string
	n := ownNode(t, func(o *harness.DaemonOptions) {
		dir := t.TempDir()
		cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		ok(t, harness.WriteCertificate(cert, key))
		o.API = fmt.Sprintf("stream_enable_tls = true\nstream_tls_cert = %q\nstream_tls_key = %q\nstream_tls_ca = %q\n", cert, key, cert)
	})
	n.leavesNothing(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	works := func() {
		t.Helper()
		for _, transport := range transports {
			s := n.sit(t, "exec", "-r", transport, "--tls-ca", cert, "--tls-cert", cert, "--tls-key", key, "--tls-sni", "localhost", c.id, "echo", "by TLS")
			equal(t, transport+": its end", s.end(t), 0)
			equal(t, transport+": stdout", s.out.String(), "by TLS\n")
		}
	}
	works()
	stranger := n.sit(t, "exec", c.id, "true")
	if stranger.end(t) == 0 {
		t.Error("a client without a certificate was let in")
	}
	time.Sleep(20 * time.Millisecond) // another time of the file
	ok(t, harness.WriteCertificate(cert, key))
	works() // trusts the new one only
}

// descriptors counts those of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	return len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)))(t))
}

func TestManySessionsAtOnceLeaveNoDescriptors(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "while :; do echo tick; sleep 0.1; done")
	one := func(i int) error {
		transport := transports[i%2]
		switch i % 3 {
		case 0:
			cmd := n.crictl.Command("attach", "-r", transport, c.id)
			out := &screen{}
			cmd.Stdout = out
			if err := cmd.Start(); err != nil {
				return err
			}
			for end := time.Now().Add(30 * time.Second); !out.shows("tick")(); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					return errors.New("the attach shows nothing")
				}
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // "signal: killed" is what was asked for
			return nil
		default:
			cmd := n.crictl.Command("exec", "-r", transport, "-i", c.id, "head", "-n", "1")
			line := fmt.Sprintf("line %d\n", i)
			cmd.Stdin = strings.NewReader(line)
			out, err := cmd.Output()
			if err != nil || string(out) != line {
				return fmt.Errorf("exec by %s gave %q: %w", transport, out, err)
			}
			return nil
		}
	}
	ok(t, one(1))
	monitor := n.daemon.Monitors()[0]
	before, beforeMonitor := descriptors(t, n.daemon.Pid()), descriptors(t, monitor)
	var all sync.WaitGroup
	slots := make(chan struct{}, 12) // crictl is not small, and there are two cores
	for i := range 60 {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := one(i); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, "the daemon has as many descriptors as before", func() bool { return descriptors(t, n.daemon.Pid()) <= before+2 })
	eventually(t, "the monitor too", func() bool { return descriptors(t, monitor) <= beforeMonitor })
}

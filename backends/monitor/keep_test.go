package monitor_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// again is how soon everything must work after the monitor's death. A machine
// that is busy with other tests gets more.
func again() time.Duration {
	var load float64
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(data), &load)
	}
	if load > 8 {
		return 10 * time.Second
	}
	return slowness() * time.Second
}

// die kills the monitor.
func (n *node) die() {
	n.t.Helper()
	if err := syscall.Kill(n.monitorPid(), syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
}

// returns waits for another monitor than the one that was, and connects to it.
func (n *node) returns(was int) {
	n.t.Helper()
	n.eventually("another monitor", func() bool {
		pids := n.processes("troupe-monitor")
		return len(pids) == 1 && pids[0] != was
	})
	n.connect()
}

// numbering prints numbered lines on both streams as fast as they are taken, until
// stop is called. Then it says how many.
type numbering struct {
	backends.ProcessRequest
	dir string
}

func (n *node) numbers() numbering {
	c := numbering{dir: filepath.Join(n.dir, "control")}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	script := `count() { i=0; while [ ! -e /tmp/stop ]; do seq $((i+1)) $((i+997)); i=$((i+997)); done; echo end $i; }
		count & count >&2; wait; exit 17`
	c.ProcessRequest = n.container(shell(script), func(s *specs.Spec) {
		for i, m := range s.Mounts {
			if m.Destination == "/tmp" {
				s.Mounts[i] = specs.Mount{Destination: "/tmp", Type: "bind", Source: c.dir, Options: []string{"rbind"}}
			}
		}
	})
	return c
}

func (c numbering) stop(t *testing.T) {
	if err := os.WriteFile(filepath.Join(c.dir, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// check counts the lines of the logs, oldest first: of each stream every number
// once, in order, whole, with a time that does not go back.
func (c numbering) check(t *testing.T, logs ...string) {
	t.Helper()
	next, ended, last := map[string]int{}, map[string]bool{}, map[string]string{}
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			at, stream, tag, text, whole := cut(lines.Text())
			if !whole {
				t.Fatalf("%s: torn: %.200q", name, lines.Text())
			}
			if at < last[stream] {
				t.Errorf("%s: the time goes back from %s to %s", stream, last[stream], at)
			}
			last[stream] = at
			want := strconv.Itoa(next[stream] + 1)
			if text == "end "+strconv.Itoa(next[stream]) {
				ended[stream] = true
				continue
			}
			if tag != "F" || text != want || ended[stream] {
				t.Fatalf("%s of %s: %q (%s), want %s", filepath.Base(name), stream, text, tag, want)
			}
			next[stream]++
		}
	}
	if !ended["stdout"] || !ended["stderr"] {
		t.Errorf("ends: %v", ended)
	}
	t.Logf("lines: %v, each once and in order", next)
}

// cut takes a record apart; not by a regular expression, there are millions.
func cut(line string) (at, stream, tag, text string, whole bool) {
	const stamp = len("2006-01-02T15:04:05.000000000Z")
	if len(line) < stamp+1 || line[stamp-1] != 'Z' || line[stamp] != ' ' || line[4] != '-' || line[19] != '.' {
		return "", "", "", "", false
	}
	parts := strings.SplitN(line[stamp+1:], " ", 3)
	if len(parts) != 3 || (parts[0] != "stdout" && parts[0] != "stderr") || (parts[1] != "F" && parts[1] != "P") {
		return "", "", "", "", false
	}
	return line[:stamp], parts[0], parts[1], parts[2], true
}

func TestEveryLineIsInTheLogOnceHoweverOftenTheMonitorIsKilled(t *testing.T) {
	n := newNode(t)
	c := n.numbers()
	n.run(c.ProcessRequest)
	var logs []string
	var slowest time.Duration
	const kills = 30
	for i := range kills {
		time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
		if i%5 == 4 { // as a kubelet rotates it, at the same moment
			rotated := fmt.Sprintf("%s.%d", c.LogPath, i)
			if err := os.Rename(c.LogPath, rotated); err != nil {
				t.Fatal(err)
			}
			logs = append(logs, rotated)
			if i%10 == 9 {
				go func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }(n.monitorPid())
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			}
			n.reopen(c)
		}
		was := n.monitorPid()
		began := time.Now()
		n.die()
		n.returns(was)
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("%d kills; the slowest return took %v", kills, slowest.Round(time.Millisecond))
	c.stop(t)
	if e := n.exit(c.ProcessRequest); e.ExitCode != 17 {
		t.Errorf("exit: %+v", e)
	}
	c.check(t, append(logs, c.LogPath)...)
}

// reopen asks until it is done, as the daemon's client would if it were not the
// monitor's death that ends the connection.
func (n *node) reopen(c numbering) {
	n.t.Helper()
	for range 20 {
		err := n.ReopenLog(n.ctx(), c.Pod, c.Container)
		if err == nil {
			return
		}
		if messages.KindOf(err) != messages.Unavailable {
			n.t.Fatal(err)
		}
		n.connect()
	}
	n.t.Fatal("the log is not reopened")
}

func TestWhatEndsWithoutAMonitorEndsWithItsTrueCodeAndItsLastWords(t *testing.T) {
	eachHandler(t, func(t *testing.T) {
		n := newNode(t)
		r := n.container(shell("sleep 0.3; echo last words; printf half; exit 41"))
		waits := n.container(shell("read x; kill -SEGV $$"), hostPID)
		waits.Stdin = true
		n.run(r)
		n.run(waits)
		pid := n.monitorPid()
		// While the keeper stands still there is no other monitor.
		keeper := n.keeperPid()
		if err := syscall.Kill(keeper, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		n.die()
		s := <-n.ended
		n.ended <- s
		time.Sleep(700 * time.Millisecond)
		if err := syscall.Kill(keeper, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		n.returns(pid)
		if e := n.exit(r); e.ExitCode != 41 || e.ExitUnknown || e.ExitedAt.Before(e.StartedAt) {
			t.Errorf("exit: %+v", e)
		}
		if got := parse(t, n.log(r)); len(got) != 2 || got[0] != "stdout F last words" || got[1] != "stdout P half" {
			t.Errorf("log: %q", got)
		}
		n.say(waits, "go\n")
		if e := n.exit(waits); e.Signal != int(syscall.SIGSEGV) || e.ExitCode != 139 {
			t.Errorf("exit of one that lived on: %+v", e)
		}
	})
}

// say writes to the stdin of a container, and leaves it open.
func (n *node) say(r backends.ProcessRequest, text string) {
	n.t.Helper()
	in, err := os.CreateTemp(n.dir, "in")
	if err != nil {
		n.t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteString(text); err != nil {
		n.t.Fatal(err)
	}
	if _, err := in.Seek(0, 0); err != nil {
		n.t.Fatal(err)
	}
	if err := n.Attach(n.ctx(), backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdin: in}}); err != nil {
		n.t.Errorf("attach: %v", err)
	}
}

func TestStdinAndTerminalOutliveTheMonitor(t *testing.T) {
	eachHandler(t, func(t *testing.T) {
		n := newNode(t)
		pipes := n.container(shell(`echo ready; while read x; do echo "got $x"; done; echo eof; exit 4`))
		pipes.Stdin, pipes.StdinOnce = true, true
		terminal := n.container(shell(`test -t 0 && echo ready; read x; echo "got $x"; i=0; while [ $i -lt 300 ]; do echo "line $i"; i=$((i+1)); done; exit 5`))
		terminal.TTY, terminal.Stdin = true, true
		n.run(pipes)
		n.run(terminal)
		for range 3 {
			was := n.monitorPid()
			n.die()
			n.returns(was)
		}
		n.say(terminal, "hello\n")
		n.say(pipes, "one\ntwo\n") // its end is the end of stdin
		if e := n.exit(pipes); e.ExitCode != 4 {
			t.Errorf("pipes: %+v", e)
		}
		if got := strings.Join(parse(t, n.log(pipes)), "|"); got != "stdout F ready|stdout F got one|stdout F got two|stdout F eof" {
			t.Errorf("pipes: %s", got)
		}
		if e := n.exit(terminal); e.ExitCode != 5 {
			t.Errorf("terminal: %+v", e)
		}
		got := parse(t, n.log(terminal))
		if len(got) != 303 || !strings.HasPrefix(got[302], "stdout F line 299") { // ready, the echo, got, 300 lines
			t.Errorf("terminal: %d lines, the last is %q", len(got), got[len(got)-1])
		}
	})
}

func TestExecAttachAndStopWorkAgainWithinASecond(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`trap 'echo bye; exit 6' TERM; echo ready; while :; do sleep 0.05; echo tick; done`))
	n.run(r)
	session := make(chan error, 1)
	ctx := n.ctx()
	go func(c backends.Runtime) {
		_, err := c.ExecStream(ctx, backends.ExecStreamRequest{Pod: r.Pod, Container: r.Container, Command: []string{"sleep", "4711"}})
		session <- err
	}(n.Client)
	n.eventually("the session runs", func() bool { return running("sleep\x004711") == 1 })
	time.Sleep(50 * time.Millisecond) // the monitor has it from the kernel a little later
	was := n.monitorPid()
	n.die()
	killed := time.Now()
	if err := <-session; messages.KindOf(err) != messages.Unavailable {
		t.Errorf("the session's end: %v", err)
	}
	if d := time.Since(killed); d > again() {
		t.Errorf("the session's client was told after %v", d)
	}
	n.returns(was)
	if res, err := n.Exec(n.ctx(), execRequest(r, "echo here")); err != nil || string(res.Stdout) != "here\n" {
		t.Errorf("exec: %+v, %v", res, err)
	}
	d := time.Since(killed)
	t.Logf("exec works %v after the kill", d.Round(time.Millisecond))
	if d > again() {
		t.Errorf("exec works only %v after the kill", d)
	}
	n.eventually("the cut-off session's command ends", func() bool { return running("sleep\x004711") == 0 })
	out, err := os.Create(filepath.Join(n.dir, "attached"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	attached := make(chan error, 1)
	go func() {
		attached <- n.Attach(ctx, backends.AttachRequest{Pod: r.Pod, Container: r.Container, Streams: messages.Streams{Stdout: out}})
	}()
	n.eventually("attach copies what is printed", func() bool {
		data, _ := os.ReadFile(out.Name())
		return strings.Contains(string(data), "tick\n")
	})
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGTERM", false); err != nil {
		t.Error(err)
	}
	if e := n.exit(r); e.ExitCode != 6 {
		t.Errorf("stop: %+v", e)
	}
	if err := <-attached; err != nil {
		t.Errorf("attach: %v", err)
	}
}

func TestAKeeperThatDiesIsReplacedAndGetsAll(t *testing.T) {
	n := newNode(t)
	c := n.numbers()
	n.run(c.ProcessRequest)
	pid, keeper := n.monitorPid(), n.keeperPid()
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("another keeper", func() bool {
		pids := n.processes("troupe-keeper")
		return len(pids) == 1 && pids[0] != keeper
	})
	if n.monitorPid() != pid {
		t.Error("the monitor did not live on")
	}
	time.Sleep(300 * time.Millisecond) // it is told beside the containers' work
	for range 3 {
		was := n.monitorPid()
		n.die()
		n.returns(was)
		if res, err := n.Exec(n.ctx(), execRequest(c.ProcessRequest, "echo here")); err != nil || string(res.Stdout) != "here\n" {
			t.Errorf("exec: %+v, %v", res, err)
		}
	}
	c.stop(t)
	if e := n.exit(c.ProcessRequest); e.ExitUnknown == tellsExits(t) || (!e.ExitUnknown && e.ExitCode != 17) {
		t.Errorf("exit: %+v", e)
	}
	c.check(t, c.LogPath)
}

// The pipes end then, as they do with every other runtime whose monitor dies:
// what is promised is the truth, and that nothing is left.
func TestWhenKeeperAndMonitorDieTogetherTheTruthIsTold(t *testing.T) {
	n := newNode(t)
	prints, silent := n.container(shell(`i=0; while echo "line $i"; do i=$((i+1)); sleep 0.01; done; exit 3`)), sleeper(n)
	n.run(prints)
	n.eventually("it prints", func() bool { return strings.Contains(n.log(prints), "line 3") })
	pid, keeper := n.monitorPid(), n.keeperPid()
	for _, err := range []error{
		syscall.Kill(pid, syscall.SIGSTOP), // or it finds another keeper in between
		syscall.Kill(keeper, syscall.SIGKILL), syscall.Kill(pid, syscall.SIGKILL),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	<-n.ended
	n.ended <- nil
	n.connect()
	n.eventually("the end of what could not print", func() bool {
		s, err := n.State(n.ctx(), prints.Pod, prints.Container)
		return err == nil && s.Status == messages.ProcessExited && (s.ExitUnknown || s.ExitCode == 128+int32(syscall.SIGPIPE) || s.ExitCode == 3)
	})
	if s, err := n.State(n.ctx(), silent.Pod, silent.Container); err != nil || s.Status != messages.ProcessRunning {
		t.Errorf("what prints nothing: %+v, %v", s, err)
	}
	for i, line := range parse(t, n.log(prints)) {
		if line != fmt.Sprintf("stdout F line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestAnUpgradeTakesOverWhileAllGoesOn(t *testing.T) {
	n := newNode(t)
	n.cfg.Binary = filepath.Join(n.dir, "troupe-monitor") // the test's own, to be replaced
	n.replaceProgram(program)
	if err := n.Quit(n.ctx()); err != nil { // begin again from there
		t.Fatal(err)
	}
	n.eventually("there is none", func() bool { return len(n.processes("troupe-keeper")) == 0 })
	n.connect()
	c := n.numbers()
	n.run(c.ProcessRequest)
	created := n.container(shell("exit 9"))
	if _, err := n.Create(n.ctx(), created); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		n.replaceProgram(program)
		was := n.monitorPid()
		if err := n.Upgrade(n.ctx()); err != nil {
			t.Fatal(err)
		}
		n.returns(was)
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.monitorPid()))
		if err != nil || exe != n.cfg.Binary { // else it says "(deleted)"
			t.Errorf("it runs %s, %v", exe, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// A program that does not work: the one before goes on.
	if err := os.WriteFile(n.cfg.Binary+".new", []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.cfg.Binary+".new", n.cfg.Binary); err != nil {
		t.Fatal(err)
	}
	was := n.monitorPid()
	if err := n.Upgrade(n.ctx()); err != nil {
		t.Fatal(err)
	}
	n.returns(was)
	// None at all: refused, and nothing happens.
	if err := os.Remove(n.cfg.Binary); err != nil {
		t.Fatal(err)
	}
	was = n.monitorPid()
	wantKind(t, n.Upgrade(n.ctx()), messages.Precondition, "no such file")
	if n.monitorPid() != was {
		t.Error("it went all the same")
	}
	n.replaceProgram(program)
	if s, err := n.Start(n.ctx(), created.Pod, created.Container); err != nil {
		t.Errorf("start: %+v, %v", s, err)
	}
	if e := n.exit(created); e.ExitCode != 9 {
		t.Errorf("created before: %+v", e)
	}
	c.stop(t)
	if e := n.exit(c.ProcessRequest); e.ExitCode != 17 {
		t.Errorf("exit: %+v", e)
	}
	c.check(t, c.LogPath)
}

// replaceProgram does what a package manager does: another file at the path.
func (n *node) replaceProgram(with string) {
	n.t.Helper()
	data, err := os.ReadFile(with)
	if err == nil {
		err = os.WriteFile(n.cfg.Binary+".new", data, 0o755)
	}
	if err == nil {
		err = os.Rename(n.cfg.Binary+".new", n.cfg.Binary)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

package monitor_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

func execRequest(r backends.ProcessRequest, script string) backends.ExecRequest {
	return backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: shell(script)}
}

func sleeper(n *node, change ...func(*specs.Spec)) backends.ProcessRequest {
	r := n.container([]string{"/bin/sleep", "1000"}, change...)
	n.run(r)
	return r
}

func TestExecGivesOutputAndExitCode(t *testing.T) {
	n := newNode(t)
	r := sleeper(n, func(s *specs.Spec) {
		s.Process.User.UID, s.Process.User.AdditionalGids, s.Process.Cwd = 1000, []uint32{7}, "/tmp"
	})
	res, err := n.Exec(n.ctx(), execRequest(r, `echo "$WHO $(id -u) $(id -G) $(pwd)"; grep -c . /proc/1/cmdline; echo bad >&2; exit 3`))
	if err != nil {
		t.Fatal(err)
	}
	if string(res.Stdout) != "container 1000 0 7 /tmp\n1\n" || string(res.Stderr) != "bad\n" || res.ExitCode != 3 {
		t.Errorf("stdout %q, stderr %q, code %d", res.Stdout, res.Stderr, res.ExitCode)
	}
	res, err = n.Exec(n.ctx(), execRequest(r, `kill -9 $$`))
	if err != nil || res.ExitCode != 137 {
		t.Errorf("killed: %+v, %v", res, err)
	}
}

func TestExecHasTheCapabilitiesOfTheContainer(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	res, err := n.Exec(n.ctx(), execRequest(r, `grep -E 'CapEff|NoNewPrivs' /proc/self/status`))
	if err != nil || string(res.Stdout) != "CapEff:\t00000000000000e1\nNoNewPrivs:\t1\n" {
		t.Errorf("%q, %v", res.Stdout, err)
	}
}

func TestExecOutputIsCappedAt16MiB(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	res, err := n.Exec(n.ctx(), execRequest(r, `head -c 20000000 /dev/zero; echo done >&2`))
	if err != nil || len(res.Stdout) != 16<<20 || string(res.Stderr) != "done\n" {
		t.Errorf("%d bytes, %q, %v", len(res.Stdout), res.Stderr, err)
	}
}

func TestAnExecThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	req := execRequest(r, `sleep 9872001 & (sleep 9872002 &); setsid sleep 9872003 & sleep 9872004`)
	req.Timeout = 500 * time.Millisecond
	began := time.Now()
	_, err := n.Exec(n.ctx(), req)
	wantKind(t, err, messages.Deadline, "timed out after 500ms")
	if took := time.Since(began); took > 2*time.Second*slowness() {
		t.Errorf("took %v", took)
	}
	n.eventually("nothing of it is left", func() bool { return running("sleep\x00987200") == 0 })
	ctx, cancel := context.WithTimeout(n.ctx(), 300*time.Millisecond)
	defer cancel()
	_, err = n.Exec(ctx, execRequest(r, `sleep 9872005`))
	wantKind(t, err, messages.Deadline, "")
	n.eventually("what nobody waits for is killed", func() bool { return running("sleep\x009872005") == 0 })
}

func TestAnExecDoesNotWaitForWhoHoldsItsPipes(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	began := time.Now()
	res, err := n.Exec(n.ctx(), execRequest(r, `echo hello; sleep 3001 &`))
	if err != nil || string(res.Stdout) != "hello\n" || time.Since(began) > 3*time.Second*slowness() {
		t.Errorf("%q, %v after %v", res.Stdout, err, time.Since(began))
	}
}

func TestExecSaysWhatIsWrong(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	req := backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: []string{"nosuch"}}
	_, err := n.Exec(n.ctx(), req)
	wantKind(t, err, messages.Internal, `exec: "nosuch": `)
	req.Command = nil
	_, err = n.Exec(n.ctx(), req)
	wantKind(t, err, messages.Invalid, "empty")
	_, err = n.Exec(n.ctx(), backends.ExecRequest{Pod: newID(), Container: newID(), Command: shell("true")})
	wantKind(t, err, messages.NotFound, "not known")
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
		t.Fatal(err)
	}
	n.exit(r)
	_, err = n.Exec(n.ctx(), execRequest(r, "true"))
	wantKind(t, err, messages.Precondition, "exited")
}

// A probe that meets the end of its container is told so, whichever of the two
// was first: it is nothing to be alarmed by.
func TestAnExecThatMeetsTheEndOfItsContainerIsNoFault(t *testing.T) {
	n := newNode(t)
	refused := 0
	for round := 0; refused == 0 && round < 20; round++ {
		r := sleeper(n)
		met := make(chan error)
		for range 4 {
			go func() {
				for {
					res, err := n.Exec(n.ctx(), execRequest(r, "true"))
					if err != nil || res.ExitCode != 0 { // 137: it had started
						met <- err
						return
					}
				}
			}()
		}
		if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
			t.Error(err)
		}
		for range 4 {
			if err := <-met; err != nil {
				wantKind(t, err, messages.Precondition, "")
				if strings.Contains(err.Error(), "ended before the command could start") {
					refused++
				}
			}
		}
	}
	if refused == 0 {
		t.Skip("no exec was caught half-way in 20 rounds")
	}
}

// running counts the processes of the machine whose command line has words.
func running(words string) (count int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), words) {
			count++
		}
	}
	return count
}

func TestTheSeccompProfileHoldsInInitAndExec(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("mkdir /tmp/x; echo made $?; sleep 1000"), func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno},
		}}
	})
	n.run(r)
	n.eventually("init was refused", func() bool { return strings.Contains(n.log(r), "stdout F made 1") })
	res, err := n.Exec(n.ctx(), execRequest(r, "mkdir /tmp/y; echo $?"))
	if err != nil || string(res.Stdout) != "1\n" || !strings.Contains(string(res.Stderr), "not permitted") {
		t.Errorf("%+v, %v", res, err)
	}
}

package monitor_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// eachHandler runs a test for libcontainer and for every OCI runtime that this
// machine has (tools/setup installs crun and runc).
func eachHandler(t *testing.T, test func(t *testing.T)) {
	for _, handler := range []string{monitor.Builtin, "crun", "runc"} {
		t.Run(handler, func(t *testing.T) {
			if handler != monitor.Builtin {
				if _, err := exec.LookPath(handler); err != nil {
					t.Skip(err)
				}
			}
			t.Setenv("TROUPE_TEST_HANDLER", handler)
			test(t)
		})
	}
}

// What is promised of libcontainer, which all other tests of this package run,
// is promised of each OCI runtime.
func TestAKubeletSeesNoDifferenceBetweenHandlers(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"ExitCode": TestAContainerRunsAndItsExitCodeIsTold, "Killed": TestAContainerThatIsKilledReports137,
		"StartError": TestACommandThatDoesNotExistIsFoundByStart, "FailedCreate": TestACreateThatFailsLeavesNothing,
		"OOM": TestOutOfMemoryIsNoticed, "HostPID": TestTheEndOfInitEndsAllOfAContainerInTheHostsPIDNamespace,
		"Orphans": TestOrphansAreReapedWhileTheContainerRuns, "Exec": TestExecGivesOutputAndExitCode,
		"ExecTimeout": TestAnExecThatTakesTooLongIsKilledWithItsChildren, "ExecErrors": TestExecSaysWhatIsWrong,
		"Log": TestAllOutputIsInTheLogWhenTheExitIsTold, "TTY": TestATerminalIsTheStdoutStream, "Stdin": TestStdinIsEmptyUnlessAskedFor,
		"SeccompPause": TestThePauseProcessIsConfinedAndHasNoFileOfOurs,
		"Pause":        TestThePauseProcessHoldsThePIDNamespaceAndReaps, "NextMonitor": TestTheNextMonitorReportsWhatTheLastOneLeft,
	} {
		t.Run(name, func(t *testing.T) {
			eachHandler(t, func(t *testing.T) {
				if os.Getenv("TROUPE_TEST_HANDLER") == monitor.Builtin {
					t.Skip("runs by itself")
				}
				test(t)
			})
		})
	}
}

// crun gets the program that was compiled for the profile before.
func TestCrunGetsEachProfileCompiledOnce(t *testing.T) {
	if _, err := exec.LookPath("crun"); err != nil {
		t.Skip(err)
	}
	t.Setenv("TROUPE_TEST_HANDLER", "crun")
	t.Run("Confined", TestRuntimeDefaultConfinesEveryStartAndExecAndNoFileLeaks)
	t.Run("NotMixed", TestProfilesDoNotMix)
}

func TestHandlersRunSideBySide(t *testing.T) {
	n := newNode(t)
	for handler := range n.cfg.Handlers {
		r := n.container(shell("sleep 0.2; exit 7"))
		r.Handler = handler
		n.run(r)
		b := n.container(shell("exit 8"))
		b.Handler = monitor.Builtin
		n.run(b)
		if e := n.exit(b); e.ExitCode != 8 {
			t.Errorf("libcontainer beside %s: %+v", handler, e)
		}
		if e := n.exit(r); e.ExitCode != 7 {
			t.Errorf("%s: %+v", handler, e)
		}
	}
	r := n.container(shell("true"))
	r.Handler = "gone"
	_, err := n.Create(n.ctx(), r)
	wantKind(t, err, messages.Precondition, `"gone"`)
}

func TestAContainersSignalsAreNotTheMonitors(t *testing.T) {
	eachHandler(t, func(t *testing.T) {
		n := newNode(t)
		r := n.container([]string{"/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"})
		n.run(r)
		n.exit(r)
		if got := n.log(r); strings.Count(got, "0000000000000000\n") != 2 {
			t.Errorf("a signal is ignored or blocked: %s", got)
		}
	})
}

// crun runs in a mount namespace of its own on machines with hybrid cgroups;
// its containers must not notice.
func TestAMountOnTheNodeReachesAContainerThatAskedForIt(t *testing.T) {
	eachHandler(t, func(t *testing.T) {
		n := newNode(t)
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		later := filepath.Join(dir, "later")
		if err := os.Mkdir(later, 0o755); err != nil {
			t.Fatal(err)
		}
		r := n.container(shell("while ! test -e /tmp/node/later/file; do sleep 0.05; done"), func(s *specs.Spec) {
			s.Linux.RootfsPropagation = "rslave"
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/node", Type: "bind", Source: dir, Options: []string{"rbind", "rslave"}})
		})
		n.run(r)
		if err := unix.Mount("tmpfs", later, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(later, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if e := n.exit(r); e.ExitCode != 0 {
			t.Errorf("exit: %+v", e)
		}
	})
}

// script is a runtime that does what a test wants.
func (n *node) script(body string) string {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func TestACreateThatHangsEndsWithItsLimitOrItsCaller(t *testing.T) {
	n := newNode(t)
	n.cfg.Handlers["hangs"] = wire.Runtime{Path: n.script("exec sleep 4001"), CreateTimeout: 300 * time.Millisecond}
	n.cfg.Handlers["waits"] = wire.Runtime{Path: n.script("exec sleep 4002")}
	r := n.container(shell("true"))
	r.Handler = "hangs"
	_, err := n.Create(n.ctx(), r)
	wantKind(t, err, messages.Deadline, "container_create_timeout of handler hangs")
	r = n.container(shell("true"))
	r.Handler = "waits"
	ctx, cancel := context.WithTimeout(n.ctx(), 300*time.Millisecond)
	defer cancel()
	_, err = n.Create(ctx, r)
	wantKind(t, err, messages.Deadline, "")
	n.eventually("the runtimes are killed", func() bool { return running("sleep\x00400") == 0 })
	n.eventually("nothing is left", func() bool {
		held, err := n.Held(n.ctx())
		return err == nil && len(held) == 0
	})
}

func TestDeleteEndsACreateThatHangs(t *testing.T) {
	n := newNode(t)
	n.cfg.Handlers["hangs"] = wire.Runtime{Path: n.script("exec sleep 4003")}
	r := n.container(shell("true"))
	r.Handler = "hangs"
	created := make(chan error, 1)
	ctx := n.ctx()
	go func() {
		_, err := n.Create(ctx, r)
		created <- err
	}()
	n.eventually("the runtime runs", func() bool { return running("sleep\x004003") == 1 })
	if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
		t.Error(err)
	}
	wantKind(t, <-created, messages.Canceled, "was ended")
	if running("sleep\x004003") != 0 {
		t.Error("the runtime is still there")
	}
}

func TestARuntimeEndsWithTheMonitorThatRanIt(t *testing.T) {
	n := newNode(t)
	n.cfg.Handlers["hangs"] = wire.Runtime{Path: n.script("exec sleep 4004")}
	r := n.container(shell("true"))
	r.Handler = "hangs"
	ctx := n.ctx()
	created := make(chan error, 1)
	go func() {
		_, err := n.Create(ctx, r)
		created <- err
	}()
	n.eventually("the runtime runs", func() bool { return running("sleep\x004004") == 1 })
	if err := syscall.Kill(n.monitorPid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-created, messages.Unavailable, "ended")
	<-n.ended
	n.connect()
	n.eventually("the runtime has ended", func() bool { return running("sleep\x004004") == 0 })
	if s, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || s.Status != messages.ProcessGone {
		t.Errorf("%+v, %v", s, err)
	}
	if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
		t.Error(err)
	}
}

func TestTheRuntimesOwnWordsAreInTheError(t *testing.T) {
	n := newNode(t)
	n.cfg.Handlers["fails"] = wire.Runtime{Path: n.script(`
while [ "$1" != --log ]; do shift; done
echo '{"level":"warning","msg":"not this"}' >"$2"
echo '{"level":"error","msg":"no such luck"}' >>"$2"
echo '{"level":"info","msg":"nor that"}' >>"$2"
exit 1`)}
	n.cfg.Handlers["silent"] = wire.Runtime{Path: n.script("exit 3")}
	n.cfg.Handlers["absent"] = wire.Runtime{Path: "/nosuch/runtime"}
	for handler, words := range map[string]string{"fails": "create: no such luck", "silent": "exit status 3", "absent": "/nosuch/runtime"} {
		r := n.container(shell("true"))
		r.Handler = handler
		_, err := n.Create(n.ctx(), r)
		wantKind(t, err, messages.Internal, words)
	}
}

func TestAContainerWhoseRuntimeWasRemovedCanBeStoppedAndDeleted(t *testing.T) {
	n := newNode(t)
	for name, rt := range n.cfg.Handlers {
		own := filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("cp", rt.Path, own).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		n.cfg.Handlers["own"] = wire.Runtime{Kind: rt.Kind, Path: own}
		r := n.container([]string{"/bin/sleep", "1000"})
		r.Handler = "own"
		n.run(r)
		if err := os.Remove(own); err != nil {
			t.Fatal(err)
		}
		delete(n.cfg.Handlers, "own")
		monitor := n.monitorPid()
		if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-n.ended
		for { // a dying process's socket still accepts
			if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", monitor)); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		n.connect()
		if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
			t.Error(err)
		}
		if e := n.exit(r); e.ExitCode != 137 && !e.ExitUnknown {
			t.Errorf("%s: %+v", name, e)
		}
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Errorf("delete a container of %s: %v", name, err)
		}
		if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*%s/%s", n.cgroup, r.Container)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

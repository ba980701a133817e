package monitor_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func TestADaemonThatComesBackIsToldTheTruth(t *testing.T) {
	n := newNode(t)
	stays, ends, waits := sleeper(n), n.container(shell("sleep 0.3; exit 9")), n.container(shell("true"))
	n.run(ends)
	if _, err := n.Create(n.ctx(), waits); err != nil {
		t.Fatal(err)
	}
	pid := n.monitorPid()
	n.disconnect()
	_, err := n.State(n.ctx(), stays.Pod, stays.Container)
	wantKind(t, err, messages.Unavailable, "not connected")
	time.Sleep(500 * time.Millisecond)
	n.connect()
	if n.monitorPid() != pid {
		t.Error("another monitor was started")
	}
	told := map[string]messages.ProcessState{}
	for len(n.facts) > 0 {
		s := <-n.facts
		told[s.Container] = s
	}
	if s := told[stays.Container]; s.Status != messages.ProcessRunning || s.Pid == 0 || s.Pod != stays.Pod {
		t.Errorf("running: %+v", s)
	}
	if s := told[waits.Container]; s.Status != messages.ProcessCreated {
		t.Errorf("created: %+v", s)
	}
	if s := told[ends.Container]; s.Status != messages.ProcessExited || s.ExitCode != 9 {
		t.Errorf("exited while the daemon was away: %+v", s)
	}
}

func TestANewDaemonReplacesTheOld(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	old := n.ended
	n.connect()
	select {
	case err := <-old:
		wantKind(t, err, messages.Unavailable, "ended")
		old <- err
	case <-time.After(5 * time.Second):
		t.Error("the old connection goes on")
	}
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
		t.Fatal(err)
	}
	n.exit(r)
}

func TestAMonitorWithContainersDoesNotEnd(t *testing.T) {
	n := newNode(t)
	r := sleeper(n)
	wantKind(t, n.Quit(n.ctx()), messages.Precondition, "1 containers")
	pid := n.monitorPid()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if s, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || s.Status != messages.ProcessRunning {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTwoMonitorsNeverServeOneDirectory(t *testing.T) {
	n := newNode(t)
	out, err := exec.Command(program, "--dir", n.cfg.Dir).CombinedOutput()
	if err == nil {
		t.Errorf("the second one runs: %s", out)
	}
	if s, err := n.State(n.ctx(), newID(), newID()); err != nil || s.Status != messages.ProcessGone {
		t.Errorf("the first one: %+v, %v", s, err)
	}
}

// Needs a kernel of 6.15 or later, which tells how a process ended that was
// not our child; on older ones ExitUnknown is the promise.
// tellsExits says whether the kernel tells how a process ended that was never
// our child (PIDFD_INFO_EXIT, Linux 6.15). Where it does not, the exit must be
// reported as unknown and not be guessed.
func tellsExits(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || (major == 6 && minor >= 15)
}

func TestTheNextMonitorReportsWhatTheLastOneLeft(t *testing.T) {
	n := newNode(t)
	runs, created, ends, told := sleeper(n), n.container(shell("exit 4")), n.container(shell(fmt.Sprintf("sleep %v; exit 6", (slowness()*time.Second/2).Seconds()))), n.container(shell("exit 5"))
	missing := n.container([]string{"nosuch"})
	n.run(told)
	n.exit(told)
	n.run(ends)
	if _, err := n.Create(n.ctx(), created); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Create(n.ctx(), missing); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n.monitorPid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-n.ended, messages.Unavailable, "ended")
	n.ended <- nil
	time.Sleep(slowness() * time.Second)
	n.connect()
	if s, err := n.State(n.ctx(), told.Pod, told.Container); err != nil || s.ExitCode != 5 || s.Status != messages.ProcessExited {
		t.Errorf("exited before: %+v, %v", s, err)
	}
	if s, err := n.State(n.ctx(), ends.Pod, ends.Container); err != nil || s.Status != messages.ProcessExited || s.ExitUnknown || s.ExitCode != 6 {
		t.Errorf("exited while there was no monitor, or another: %+v, %v", s, err)
	}
	if _, err := n.Start(n.ctx(), created.Pod, created.Container); err != nil {
		t.Errorf("start: %v", err)
	}
	if e := n.exit(created); e.ExitUnknown || e.ExitCode != 4 {
		t.Errorf("exit of a created one: %+v", e)
	}
	_, err := n.Start(n.ctx(), missing.Pod, missing.Container)
	wantKind(t, err, messages.Internal, `exec: "nosuch"`)
	if res, err := n.Exec(n.ctx(), execRequest(runs, "echo here")); err != nil || string(res.Stdout) != "here\n" {
		t.Errorf("exec: %+v, %v", res, err)
	}
	if err := n.Signal(n.ctx(), runs.Pod, runs.Container, "SIGKILL", false); err != nil {
		t.Fatal(err)
	}
	if e := n.exit(runs); e.ExitUnknown || e.ExitCode != 137 || e.Signal != 9 {
		t.Errorf("exit: %+v", e)
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	dir := t.TempDir()
	c := monitor.New(monitor.Config{Binary: filepath.Join(dir, "no-monitor"), Dir: dir, Log: slog.New(slog.DiscardHandler), ReconnectWait: 10 * time.Millisecond})
	err := c.Connect(context.Background(), func(messages.ProcessState) {}, func() {})
	wantKind(t, err, messages.Unavailable, filepath.Join(dir, "no-monitor"))
	_, err = c.State(context.Background(), newID(), newID())
	wantKind(t, err, messages.Unavailable, filepath.Join(dir, "no-monitor"))
}

func TestAMonitorThatCannotStartSaysWhy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := monitor.New(monitor.Config{Binary: program, Dir: dir})
	err := c.Connect(context.Background(), func(messages.ProcessState) {}, func() {})
	wantKind(t, err, messages.Unavailable, "not a directory")
}

func TestACallBeforeConnectIsUnavailable(t *testing.T) {
	c := monitor.New(monitor.Config{Binary: program, Dir: t.TempDir()})
	_, err := c.State(context.Background(), newID(), newID())
	wantKind(t, err, messages.Unavailable, "not connected")
}

func TestWhatIsLeftOfAContainerWithADamagedRecordGoes(t *testing.T) {
	n := newNode(t)
	stays, damaged := sleeper(n), sleeper(n)
	s, err := n.State(n.ctx(), damaged.Pod, damaged.Container)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { // the daemon does this, which finds it by the mark on its cgroup
		_ = syscall.Kill(s.Pid, syscall.SIGKILL)
		n.eventually("its cgroups can be removed", func() bool {
			left, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup + "/" + damaged.Container)
			for _, dir := range left {
				_ = os.Remove(dir)
			}
			return len(left) == 0
		})
	}()
	record := filepath.Join(n.cfg.Dir, "containers", damaged.Container)
	old := filepath.Join(n.cfg.Dir, "damaged", "of-last-month")
	longAgo := time.Now().Add(-30 * 24 * time.Hour)
	for _, err := range []error{
		os.WriteFile(record, []byte(`{"ver`), 0o600), os.MkdirAll(filepath.Dir(old), 0o700),
		os.WriteFile(old, nil, 0o600), os.Chtimes(old, longAgo, longAgo),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	left := func(of string) (names []string) {
		for _, pattern := range []string{"spool/" + of + "*", "exits/" + of + "*", "damaged/" + of + "*"} {
			found, err := filepath.Glob(filepath.Join(n.cfg.Dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, found...)
		}
		return names
	}
	if spools := left(damaged.Container); len(spools) != 2 {
		t.Fatalf("before: %v", spools)
	}
	was := n.monitorPid()
	n.die()
	n.returns(was)
	if files := left(damaged.Container); len(files) != 1 || filepath.Base(filepath.Dir(files[0])) != "damaged" {
		t.Errorf("left of it: %v", files)
	}
	if files := left(stays.Container); len(files) != 2 {
		t.Errorf("the other has %v", files)
	}
	if files := left("of-last-month"); len(files) > 0 {
		t.Errorf("put aside for ever: %v", files)
	}
	if s, err := n.State(n.ctx(), stays.Pod, stays.Container); err != nil || s.Status != messages.ProcessRunning {
		t.Errorf("the other: %+v, %v", s, err)
	}
}

// SIGSTOP is a hang of everything in it.
func TestAMonitorThatAnswersNothingIsReplacedAndContainersRunOn(t *testing.T) {
	n := makeNode(t)
	n.cfg.Patience = slowness() * 3 * time.Second
	t.Cleanup(n.end)
	n.connect()
	r := sleeper(n)
	before, err := n.State(n.ctx(), r.Pod, r.Container)
	if err != nil {
		t.Fatal(err)
	}
	was := n.monitorPid()
	time.Sleep(n.cfg.Patience + time.Second)
	if now := n.monitorPid(); now != was {
		t.Fatalf("a monitor that answers was replaced: %d, then %d", was, now)
	}
	if err := syscall.Kill(was, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.returns(was)
	after, err := n.State(n.ctx(), r.Pod, r.Container)
	if err != nil || after.Status != messages.ProcessRunning || after.Pid != before.Pid {
		t.Errorf("the container: %+v, then %+v, %v", before, after, err)
	}
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", false); err != nil {
		t.Fatal(err)
	}
	n.exit(r)
}

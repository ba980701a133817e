package monitor_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
)

func TestAContainerRunsAndItsExitCodeIsTold(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("exit 7"))
	s, err := n.Create(n.ctx(), r)
	if err != nil || s.Status != messages.ProcessCreated || s.Pid == 0 {
		t.Fatalf("create: %+v, %v", s, err)
	}
	again, err := n.Create(n.ctx(), r)
	if err != nil || again.Pid != s.Pid {
		t.Errorf("a second create gives %+v, %v", again, err)
	}
	if _, err := n.Start(n.ctx(), r.Pod, r.Container); err != nil {
		t.Fatal(err)
	}
	e := n.exit(r)
	if e.ExitCode != 7 || e.Signal != 0 || e.ExitUnknown || e.OOMKilled || e.StartedAt.IsZero() || e.ExitedAt.Before(e.StartedAt) {
		t.Errorf("exit: %+v", e)
	}
	if now, _ := n.State(n.ctx(), r.Pod, r.Container); now != e {
		t.Errorf("state is %+v, told was %+v", now, e)
	}
	_, err = n.Start(n.ctx(), r.Pod, r.Container)
	wantKind(t, err, messages.Precondition, "exited")
	for range 2 {
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Error(err)
		}
	}
	if s, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || s.Status != messages.ProcessGone {
		t.Errorf("after delete: %+v, %v", s, err)
	}
}

func TestAContainerThatIsKilledReports137(t *testing.T) {
	n := newNode(t)
	for _, all := range []bool{false, true} {
		r := n.container([]string{"/bin/sleep", "1000"})
		n.run(r)
		if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", all); err != nil {
			t.Fatal(err)
		}
		if e := n.exit(r); e.ExitCode != 137 || e.Signal != 9 {
			t.Errorf("all=%v: %+v", all, e)
		}
		if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGTERM", all); err != nil {
			t.Errorf("signal to an ended container: %v", err)
		}
	}
	wantKind(t, n.Signal(n.ctx(), newID(), newID(), "SIGNONSENSE", false), messages.Invalid, "SIGNONSENSE")
}

func TestDeleteKillsWhatRuns(t *testing.T) {
	n := newNode(t)
	created, running := n.container([]string{"/bin/sleep", "1000"}), n.container([]string{"/bin/sleep", "1000"})
	if _, err := n.Create(n.ctx(), created); err != nil {
		t.Fatal(err)
	}
	s := n.run(running)
	for _, r := range []struct{ pod, container string }{{created.Pod, created.Container}, {running.Pod, running.Container}} {
		if err := n.Delete(n.ctx(), r.pod, r.container); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(s.Pid)); err == nil {
		t.Error("the process is there")
	}
}

func TestACommandThatDoesNotExistIsFoundByStart(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct{ command, words string }{
		{"nosuch", `exec: "nosuch": `},
		{"/no/such", `exec: "/no/such": `},
		{"/proc", `exec: "/proc": `},
	} {
		r := n.container([]string{c.command})
		if s, err := n.Create(n.ctx(), r); err != nil || s.Status != messages.ProcessCreated {
			t.Fatalf("create: %+v, %v", s, err)
		}
		_, err := n.Start(n.ctx(), r.Pod, r.Container)
		wantKind(t, err, messages.Internal, c.words)
		if e := n.exit(r); e.ExitCode != 128 {
			t.Errorf("exit: %+v", e)
		}
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Error(err)
		}
	}
}

func TestACreateThatFailsLeavesNothing(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("true"), func(s *specs.Spec) { s.Root.Path = "/no/such/root" })
	if _, err := n.Create(n.ctx(), r); err == nil || !strings.Contains(err.Error(), "/no/such/root") {
		t.Errorf("create: %v", err)
	}
	r.Bundle = "/no/such/bundle"
	_, err := n.Create(n.ctx(), r)
	wantKind(t, err, messages.Invalid, "/no/such/bundle")
	r = n.container(shell("true"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/no/such/source", Options: []string{"rbind"}})
	})
	if _, err := n.Create(n.ctx(), r); err == nil || !strings.Contains(err.Error(), "/no/such/source") {
		t.Errorf("create: %v", err)
	}
	if held, err := n.Held(n.ctx()); err != nil || len(held) > 0 {
		t.Errorf("held: %+v, %v", held, err)
	}
}

func TestOutOfMemoryIsNoticed(t *testing.T) {
	n := newNode(t)
	limit := int64(32 << 20)
	r := n.container(shell("dd if=/dev/zero of=/tmp/x bs=1M count=100; tail /dev/zero"), func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	})
	n.run(r)
	if e := n.exit(r); e.ExitCode != 137 || !e.OOMKilled {
		t.Errorf("exit: %+v", e)
	}
}

func TestTheEndOfInitEndsAllOfAContainerInTheHostsPIDNamespace(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("sleep 1234 & (sleep 1235 &) ; exit 3"), hostPID)
	n.run(r)
	if e := n.exit(r); e.ExitCode != 3 {
		t.Errorf("exit: %+v", e)
	}
	monitor := n.monitorPid()
	n.eventually("no child of the monitor is left", func() bool { return len(childrenOf(monitor)) == 0 })
}

func TestOrphansAreReapedWhileTheContainerRuns(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 1000"), hostPID)
	s := n.run(r)
	monitor := n.monitorPid()
	time.Sleep(300 * time.Millisecond)
	n.eventually("only init is left", func() bool {
		c := childrenOf(monitor)
		return len(c) == 1 && c[0] == s.Pid
	})
}

func TestTwentyContainersAtOnce(t *testing.T) {
	n := newNode(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := n.container(shell("echo $0; exit " + strconv.Itoa(i)))
			if _, err := n.Create(n.ctx(), r); err != nil {
				t.Errorf("create: %v", err)
				return
			}
			if _, err := n.Start(n.ctx(), r.Pod, r.Container); err != nil {
				t.Errorf("start: %v", err)
			}
			n.eventually("the exit code", func() bool {
				s, err := n.State(n.ctx(), r.Pod, r.Container)
				return err == nil && s.Status == messages.ProcessExited && s.ExitCode == int32(i)
			})
			if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestFiftyRunsLeaveNoDescriptorAndNoZombie(t *testing.T) {
	n := newNode(t)
	monitor := n.monitorPid()
	once := func() {
		r := n.container(shell("echo hello; sleep 1000"))
		n.run(r)
		if _, err := n.Exec(n.ctx(), execRequest(r, "true")); err != nil {
			t.Errorf("exec: %v", err)
		}
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	once()
	before := descriptors(monitor)
	for range 50 {
		once()
	}
	n.eventually("no child is left", func() bool { return len(childrenOf(monitor)) == 0 })
	n.eventually("as many descriptors as before", func() bool { return len(descriptors(monitor)) <= len(before) })
	if t.Failed() {
		t.Logf("before: %v\nafter: %v", before, descriptors(monitor))
	}
}

func childrenOf(pid int) []int {
	var out []int
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		for _, word := range strings.Fields(string(data)) {
			child, _ := strconv.Atoi(word)
			out = append(out, child)
		}
	}
	return out
}

func descriptors(pid int) []string {
	var out []string
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, f := range files {
		if target, err := os.Readlink(f); err == nil {
			out = append(out, target)
		}
	}
	return out
}

package monitor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// counter is a container that prints without end, so that it shows whether it
// runs.
func counter(n *node, pod string) backends.ProcessRequest {
	r := n.container(shell("while :; do echo tick; sleep 0.01; done"), func(s *specs.Spec) { s.Version = "1.0.2" })
	if pod != "" {
		r.Pod = pod
	}
	n.run(r)
	n.eventually("it runs", func() bool { return strings.Contains(n.log(r), "tick") })
	return r
}

// goesOn says whether a container prints something within a moment.
func goesOn(n *node, r backends.ProcessRequest) bool {
	before := len(n.log(r))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if len(n.log(r)) > before {
			return true
		}
	}
	return false
}

// stands says whether it prints nothing once what was under way has arrived.
func stands(n *node, r backends.ProcessRequest) bool {
	time.Sleep(100 * time.Millisecond)
	before := len(n.log(r))
	time.Sleep(300 * time.Millisecond)
	return len(n.log(r)) == before
}

func TestPausedContainersStandStillUntilTheyAreResumed(t *testing.T) {
	n := newNode(t)
	one := counter(n, "")
	two := counter(n, one.Pod)
	ids := []string{one.Container, two.Container}
	if err := n.Freeze(n.ctx(), one.Pod, ids, time.Minute); err != nil {
		t.Fatal(err)
	}
	if !stands(n, one) || !stands(n, two) {
		t.Error("a paused container runs")
	}
	for range 2 {
		if err := n.Thaw(n.ctx(), one.Pod, ids); err != nil {
			t.Fatal(err)
		}
	}
	if !goesOn(n, one) || !goesOn(n, two) {
		t.Error("a resumed container stands")
	}
}

func TestAPauseOfSomeIsAPauseOfNone(t *testing.T) {
	n := newNode(t)
	runs := counter(n, "")
	waits := n.container(shell("true"))
	waits.Pod = runs.Pod
	if _, err := n.Create(n.ctx(), waits); err != nil {
		t.Fatal(err)
	}
	err := n.Freeze(n.ctx(), runs.Pod, []string{runs.Container, waits.Container}, time.Minute)
	wantKind(t, err, messages.Precondition, "created, not running")
	if !goesOn(n, runs) {
		t.Error("it was left paused")
	}
}

func TestADaemonThatDiesLeavesNothingPaused(t *testing.T) {
	n := newNode(t)
	r := counter(n, "")
	if err := n.Freeze(n.ctx(), r.Pod, []string{r.Container}, time.Hour); err != nil {
		t.Fatal(err)
	}
	n.disconnect()
	if !goesOn(n, r) {
		t.Error("it stands still although its daemon has gone")
	}
	n.connect()
}

func TestAPauseEndsWithItsTime(t *testing.T) {
	n := newNode(t)
	r := counter(n, "")
	if err := n.Freeze(n.ctx(), r.Pod, []string{r.Container}, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if !goesOn(n, r) {
		t.Error("it stands still although the time is over")
	}
	wantKind(t, n.Freeze(n.ctx(), r.Pod, []string{r.Container}, 0), messages.Invalid, "limit")
}

func TestAPausedContainerCanBeRemoved(t *testing.T) {
	n := newNode(t)
	r := counter(n, "")
	if err := n.Freeze(n.ctx(), r.Pod, []string{r.Container}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
		t.Error(err)
	}
	if err := n.Thaw(n.ctx(), r.Pod, []string{r.Container}); err != nil {
		t.Error(err)
	}
}

// CRIU depends on the kernel: where it cannot work, the error must say why in
// CRIU's own words, and the container must run on as if nothing had been.
func TestADumpWorksOrSaysWhyNot(t *testing.T) {
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("criu is not installed")
	}
	n := newNode(t)
	r := counter(n, "")
	dir := t.TempDir()
	err := n.Dump(n.ctx(), r.Pod, r.Container, dir)
	if exec.Command("criu", "check").Run() == nil {
		if err != nil {
			t.Errorf("criu check finds nothing wrong, but: %v", err)
		} else if _, err := os.Stat(filepath.Join(dir, "checkpoint", "inventory.img")); err != nil {
			t.Error(err)
		}
	} else {
		log := filepath.Join(n.cfg.Dir, "criu", r.Container+".log")
		wantKind(t, err, messages.Precondition, "Error (")
		wantKind(t, err, messages.Precondition, "see "+log)
		if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "Error (") {
			t.Errorf("criu's log is not kept: %q, %v", data, err)
		}
	}
	if !goesOn(n, r) {
		t.Error("the container stands still")
	}
	created := n.container(shell("true"))
	if _, err := n.Create(n.ctx(), created); err != nil {
		t.Fatal(err)
	}
	wantKind(t, n.Dump(n.ctx(), created.Pod, created.Container, dir), messages.Precondition, "not running")
}

package monitor_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
)

// parse gives "stream tag length" or "stream tag content" of every line.
func parse(t *testing.T, log string) (out []string) {
	t.Helper()
	form := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([PF]) (.*)$`)
	for _, line := range strings.Split(strings.TrimSuffix(log, "\n"), "\n") {
		m := form.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a CRI log line: %.200q", line)
		}
		out = append(out, m[1]+" "+m[2]+" "+m[3])
	}
	return out
}

func TestTheLogHasBothStreamsInTheCRIFormat(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("echo one; echo; echo two >&2; printf rest"))
	n.run(r)
	n.exit(r)
	got := map[string]bool{}
	for _, line := range parse(t, n.log(r)) {
		got[line] = true
	}
	for _, want := range []string{"stdout F one", "stdout F ", "stderr F two", "stdout P rest"} {
		if !got[want] {
			t.Errorf("no line %q in %v", want, got)
		}
	}
	if info, err := os.Stat(r.LogPath); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of the log: %v, %v", info.Mode(), err)
	}
}

func TestLongLinesAreSplitAt16KiB(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`for size in 16384 16385 40000; do head -c $size /dev/zero | tr '\0' x; echo; done`))
	n.run(r)
	n.exit(r)
	var got []int
	for _, line := range parse(t, n.log(r)) {
		size := len(line) - len("stdout F ")
		if line[7] == 'P' {
			size = -size
		}
		got = append(got, size)
	}
	want := []int{16384, -16384, 1, -16384, -16384, 40000 - 2*16384}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v (P is negative)", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v (P is negative)", got, want)
		}
	}
}

func TestAllOutputIsInTheLogWhenTheExitIsTold(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done`))
	n.run(r)
	n.exit(r)
	if lines := parse(t, n.log(r)); len(lines) != 20000 || lines[19999] != "stdout F line 19999" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestAReopenedLogGoesOnInTheNewFile(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`echo before; printf half; read x; echo; echo after; sleep 1000`))
	r.Stdin = true
	n.run(r)
	n.eventually("the first line", func() bool { return strings.Contains(n.log(r), "before") })
	if err := os.Rename(r.LogPath, r.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.ReopenLog(n.ctx(), r.Pod, r.Container); err != nil {
		t.Fatal(err)
	}
	if n.log(r) != "" {
		t.Error("the new file is not empty")
	}
	if err := n.Signal(n.ctx(), r.Pod, r.Container, "SIGKILL", true); err != nil {
		t.Fatal(err)
	}
	n.exit(r)
	if got := parse(t, n.log(r)); len(got) != 1 || got[0] != "stdout P half" {
		t.Errorf("in the new file: %q", got)
	}
	if err := os.Remove(r.LogPath); err != nil {
		t.Fatal(err)
	}
	wantKind(t, n.ReopenLog(n.ctx(), r.Pod, r.Container), messages.Precondition, "does not run")
	if _, err := os.Stat(r.LogPath); err == nil {
		t.Error("a refused reopen made a file")
	}
}

func TestAFullDiskDoesNotStopTheContainer(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`i=0; while [ $i -lt 5000 ]; do echo "line $i"; i=$((i+1)); done; exit 5`))
	r.LogPath = "/dev/full"
	n.run(r)
	if e := n.exit(r); e.ExitCode != 5 {
		t.Errorf("exit: %+v", e)
	}
}

func TestATerminalIsTheStdoutStream(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`test -t 0 && test -t 1 && test -t 2 && echo terminal; echo error >&2`))
	r.TTY = true
	n.run(r)
	n.exit(r)
	if got := parse(t, n.log(r)); len(got) != 2 || !strings.HasPrefix(got[0], "stdout F terminal") || !strings.HasPrefix(got[1], "stdout F error") {
		t.Errorf("log: %q", got)
	}
}

func TestStdinIsEmptyUnlessAskedFor(t *testing.T) {
	n := newNode(t)
	r := n.container(shell(`cat; echo "end $?"`))
	n.run(r)
	n.exit(r)
	if got := parse(t, n.log(r)); got[0] != "stdout F end 0" {
		t.Errorf("log: %q", got)
	}
	r = n.container(shell(`cat; echo end`))
	r.Stdin = true
	n.run(r)
	s, err := n.State(n.ctx(), r.Pod, r.Container)
	if err != nil || s.Status != messages.ProcessRunning {
		t.Errorf("with stdin: %+v, %v", s, err)
	}
}

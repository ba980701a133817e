package monitor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/troupe-run/troupe/messages"
)

// rehearsal is a node whose monitor is a build with failpoints.
type rehearsal struct {
	*node
	file string // what arms them
}

func newRehearsal(t *testing.T) *rehearsal {
	n := makeNode(t)
	r := &rehearsal{node: n, file: filepath.Join(n.dir, "failpoint")}
	n.cfg.Binary = filepath.Join(t.TempDir(), "troupe-monitor")
	if err := buildMonitor(n.cfg.Binary, "failpoints"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(n.cfg.Dir, "monitor.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(n.cfg.Binary, "--dir", n.cfg.Dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TROUPE_FAILPOINT_FILE=" + r.file}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.end()
		_ = cmd.Wait()
	})
	n.eventually("the monitor's socket", func() bool {
		_, err := os.Stat(filepath.Join(n.cfg.Dir, "monitor.sock"))
		return err == nil
	})
	n.connect()
	return r
}

func (r *rehearsal) arm(point string) {
	r.t.Helper()
	_ = os.Remove(r.file + ".fired")
	tmp := r.file + ".new"
	if err := os.WriteFile(tmp, []byte(point+"=kill"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, r.file); err != nil {
		r.t.Fatal(err)
	}
}

// fired waits for the monitor to have died there, and for another.
func (r *rehearsal) fired(point string) {
	r.t.Helper()
	r.eventually(point+" is reached", func() bool {
		_, err := os.Stat(r.file + ".fired")
		return err == nil
	})
	r.connect()
}

func TestTheMonitorMayDieAtEachPointOfTheWayToTheLog(t *testing.T) {
	r := newRehearsal(t)
	c := r.numbers()
	r.run(c.ProcessRequest)
	var logs []string
	rotate := func() {
		logs = append(logs, fmt.Sprintf("%s.%d", c.LogPath, len(logs)))
		if err := os.Rename(c.LogPath, logs[len(logs)-1]); err != nil {
			t.Fatal(err)
		}
		r.reopen(c)
	}
	short := func() {
		s := r.container(shell("echo one; echo two >&2; printf three; exit 3"))
		for range 3 { // a create that was cut off is asked for again
			_, err := r.Create(r.ctx(), s)
			if err == nil {
				_, err = r.Start(r.ctx(), s.Pod, s.Container)
			}
			if err == nil {
				break
			}
			if messages.KindOf(err) != messages.Unavailable {
				t.Fatal(err)
			}
			r.connect()
		}
		r.eventually("its exit", func() bool {
			st, err := r.State(r.ctx(), s.Pod, s.Container)
			if messages.KindOf(err) == messages.Unavailable && err != nil {
				r.connect()
			}
			return err == nil && st.Status == messages.ProcessExited && st.ExitCode == 3 && !st.ExitUnknown
		})
		got := parse(t, r.log(s))
		slices.Sort(got)
		if strings.Join(got, "|") != "stderr F two|stdout F one|stdout P three" {
			t.Errorf("short: %q", got)
		}
		for range 3 {
			if err := r.Delete(r.ctx(), s.Pod, s.Container); err == nil {
				break
			} else if messages.KindOf(err) != messages.Unavailable {
				t.Fatal(err)
			}
			r.connect()
		}
	}
	terminal := r.container(shell(`i=0; while [ ! -e /dev/stop ]; do echo "line $i"; i=$((i+1)); done`))
	terminal.TTY = true
	kill := func() { r.die() }
	quiet := func() {}
	points := []struct {
		name    string
		provoke func()
	}{
		{"log/splice/after", quiet},
		{"log/read/after", quiet},
		{"log/intent/after", quiet},
		{"log/write/after", quiet},
		{"log/done/after", quiet},
		{"log/punch/after", quiet},
		{"log/reopen/before", rotate},
		{"log/reopen/after", rotate},
		{"log/remove/before", short},
		{"exit/seen", short},
		{"exit/recorded", short},
		{"exit/reaped", short},
		{"keep/create/after", short},
		{"create/recorded", short},
		{"create/made", short},
		{"keep/drop/before", short},
		{"keep/load/listed", kill},
		{"keep/load/before", kill},
		{"keep/load/mended", kill},
		{"keep/load/after", kill},
		{"keep/serving/before", kill},
		{"keep/serving/after", kill},
	}
	for _, p := range points {
		r.arm(p.name)
		p.provoke()
		r.fired(p.name)
	}
	// The write that was cut off is mended, and that is cut off too.
	keeper := r.keeperPid()
	r.arm("log/intent/after")
	if err := syscall.Kill(keeper, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.eventually("the death", func() bool { _, err := os.Stat(r.file + ".fired"); return err == nil })
	r.arm("log/mend/before")
	if err := syscall.Kill(keeper, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.fired("log/mend/before")
	// A terminal's way is longer.
	r.run(terminal)
	r.arm("log/terminal/spliced")
	r.fired("log/terminal/spliced")
	r.eventually("more of the terminal", func() bool { return strings.Count(r.log(terminal), "\n") > 3000 }) // it may be empty yet, or end in half a line
	if err := r.Signal(r.ctx(), terminal.Pod, terminal.Container, "SIGKILL", false); err != nil {
		t.Error(err)
	}
	r.exit(terminal)
	for i, line := range parse(t, r.log(terminal)) {
		if i < 3000 && strings.TrimSuffix(line, "\r") != fmt.Sprintf("stdout F line %d", i) {
			t.Fatalf("terminal: line %d is %q", i, line)
		}
	}
	c.stop(t)
	if e := r.exit(c.ProcessRequest); e.ExitCode != 17 {
		t.Errorf("exit: %+v", e)
	}
	c.check(t, append(logs, c.LogPath)...)
}

func TestACommandThatEndsBeforeItsStartIsAnsweredIsNotAFailedStart(t *testing.T) {
	r := newRehearsal(t)
	s := r.container(shell("exit 4"))
	if _, err := r.Create(r.ctx(), s); err != nil {
		t.Fatal(err)
	}
	r.arm("start/released")
	if _, err := r.Start(r.ctx(), s.Pod, s.Container); messages.KindOf(err) != messages.Unavailable {
		t.Fatalf("the start of a monitor that died in it: %v", err)
	}
	r.fired("start/released")
	r.eventually("its exit", func() bool {
		st, err := r.State(r.ctx(), s.Pod, s.Container)
		return err == nil && st.Status == messages.ProcessExited && st.ExitCode == 4 && !st.StartedAt.IsZero()
	})
}

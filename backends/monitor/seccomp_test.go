package monitor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
)

func runtimeDefault(s *specs.Spec) {
	p, err := moby.GetDefaultProfile(s)
	if err != nil {
		panic(err)
	}
	s.Linux.Seccomp = p
}

// privileged has seccomp loaded early in an init: without no_new_privs.
func privileged(s *specs.Spec) { s.Process.NoNewPrivileges = false }

func refusing(code uint, call string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{call, call + "at"}, Action: specs.ActErrno, ErrnoRet: &code},
		}}
	}
}

// compiled is how often the monitor has had a profile compiled.
func (n *node) compiled() int {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(n.cfg.Dir, "monitor.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	if log := string(data); strings.Contains(log, "no ready seccomp program") {
		n.t.Errorf("a program was not ready:\n%s", log)
	}
	return strings.Count(string(data), "compiled a seccomp profile")
}

// report prints how a process is confined, its environment and its files. No
// pipelines: they would open files in the shell.
const report = `grep -E '^Seccomp' /proc/self/status
unshare -U true 2>/dev/null && echo unshared || echo refused
env
ls -l /proc/self/fd`

const confined = "Seccomp:\t2\nSeccomp_filters:\t1\nrefused\n"

// plain is a report without what differs from process to process: of a file it
// has the number, and where it leads.
func plain(report string) string {
	report = regexp.MustCompile(`(?m)^(stderr F ls: .*|total.*)\n`).ReplaceAllString(report, "")
	return regexp.MustCompile(`(?m)^l[rwx-]{9} .* (\d+)( -> \W?\w+)?.*$`).ReplaceAllString(report, "$1$2")
}

func TestRuntimeDefaultConfinesEveryStartAndExecAndNoFileLeaks(t *testing.T) {
	n := newNode(t)
	control := n.container(shell(report))
	n.run(control)
	n.exit(control)
	// Environment and files are the same with a profile as without: stdio, and
	// the directory that ls has open, which would not be the third otherwise.
	const without, files = "Seccomp:\t0\nSeccomp_filters:\t0\nunshared\n", "\n0 -> /dev\n1 -> pipe\n2 -> pipe\n3\n"
	free := messagesOf(t, n, control)
	if !strings.HasPrefix(free, without) || !strings.HasSuffix(free, files) {
		t.Fatalf("without a profile: %q", free)
	}
	want := confined + strings.TrimPrefix(free, without)
	for i, more := range []func(*specs.Spec){func(*specs.Spec) {}, func(*specs.Spec) {}, privileged, privileged} {
		r := n.container(shell(report+"\nsleep 1000"), more, runtimeDefault)
		n.run(r)
		n.eventually("it has reported", func() bool { return strings.Contains(n.log(r), " 3\n") })
		if got := messagesOf(t, n, r); got != want {
			t.Errorf("container %d: %q, want %q", i, got, want)
		}
		for range 2 {
			res, err := n.Exec(n.ctx(), execRequest(r, report))
			if err != nil || plain(string(res.Stdout)) != want {
				t.Errorf("exec in %d: %q, want %q, %v", i, res.Stdout, want, err)
			}
		}
	}
	if c := n.compiled(); c != 1 {
		t.Errorf("the profile was compiled %d times", c)
	}
}

// messagesOf is a container's report without the log format around it.
func messagesOf(t *testing.T, n *node, r backends.ProcessRequest) string {
	var out strings.Builder
	for _, line := range parse(t, n.log(r)) {
		out.WriteString(strings.TrimPrefix(line, "stdout F ") + "\n")
	}
	return plain(out.String())
}

func TestAnInitThatWaitsShowsOthersASealedFileOnly(t *testing.T) {
	n := newNode(t)
	_, s := pause(n)
	waiting := n.container(shell("sleep 1000"), sharePID(s.Pid), runtimeDefault)
	made, err := n.Create(n.ctx(), waiting)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/proc/%d/fd/3", made.Pid)
	if link, err := os.Readlink(name); err != nil || !strings.HasPrefix(link, "/memfd:seccomp") {
		t.Errorf("fd 3 of a waiting init: %q, %v", link, err)
	}
	// Even root on the node, who may open it for writing, cannot change it.
	if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
		if _, err := f.Write([]byte("x")); err == nil {
			t.Error("it was written to")
		}
		f.Close()
	}
	if err := os.Truncate(name, 0); err == nil {
		t.Error("it was cut")
	}
	if _, err := n.Start(n.ctx(), waiting.Pod, waiting.Container); err != nil {
		t.Fatal(err)
	}
	n.eventually("the user's process has no such file", func() bool {
		_, err := os.Readlink(name)
		return os.IsNotExist(err)
	})
}

func TestThePauseProcessIsConfinedAndHasNoFileOfOurs(t *testing.T) {
	n := newNode(t)
	r := n.container([]string{"/pause"}, func(s *specs.Spec) {
		s.Root.Path = "rootfs"
		s.Process.Capabilities = &specs.LinuxCapabilities{}
		s.Mounts = s.Mounts[:1]
	}, runtimeDefault)
	r.Container, r.Pause, r.LogPath = "", true, ""
	s := n.run(r)
	n.eventually("it runs", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.Pid))
		return string(comm) == "pause\n"
	})
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid))
	if err != nil || len(files) != 3 {
		t.Errorf("files: %v, %v", files, err)
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid))
	if !strings.Contains(string(status), "Seccomp:\t2\n") {
		t.Error("it is not confined")
	}
}

func TestProfilesDoNotMix(t *testing.T) {
	n := newNode(t)
	const try = `mkdir /tmp/d && echo made; ln -s a /tmp/l && echo linked; rm -rf /tmp/d /tmp/l; unshare -U true && echo unshared`
	cases := []struct {
		change func(*specs.Spec)
		want   string
	}{
		{refusing(95, "mkdir"), "mkdir: can't create directory '/tmp/d': Operation not supported\nlinked\nunshared\n"},
		{refusing(28, "mkdir"), "mkdir: can't create directory '/tmp/d': No space left on device\nlinked\nunshared\n"},
		{refusing(95, "symlink"), "made\nln: /tmp/l: Operation not supported\nunshared\n"},
		{runtimeDefault, "made\nlinked\nunshare: unshare(0x10000000): Operation not permitted\n"},
		{func(*specs.Spec) {}, "made\nlinked\nunshared\n"},
	}
	var all []backends.ProcessRequest
	for _, c := range cases {
		all = append(all, sleeper(n, c.change))
	}
	for range 2 {
		for i, c := range slices.Backward(cases) {
			res, err := n.Exec(n.ctx(), execRequest(all[i], "exec 2>&1;"+try))
			if err != nil || string(res.Stdout) != c.want {
				t.Errorf("%d: %q, want %q, %v", i, res.Stdout, c.want, err)
			}
		}
	}
	if c := n.compiled(); c != 4 {
		t.Errorf("compiled %d times", c)
	}
	// Another monitor's life would begin here; a new daemon's does not matter.
	n.disconnect()
	n.connect()
	if res, err := n.Exec(n.ctx(), execRequest(all[0], "exec 2>&1;"+try)); err != nil || string(res.Stdout) != cases[0].want {
		t.Errorf("after a new daemon: %q, %v", res.Stdout, err)
	}
}

func TestACommandThatNamesTheFileIsNotRun(t *testing.T) {
	n := newNode(t)
	r := sleeper(n, runtimeDefault)
	res, err := n.Exec(n.ctx(), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: []string{"/proc/self/fd/3"}})
	if err == nil && res.ExitCode == 0 {
		t.Errorf("it ran: %+v", res)
	}
}

// The times printed were 60 and 53 ms while every init and exec compiled.
func TestManyCreatesAndExecsCompileTheirProfileOnce(t *testing.T) {
	n := newNode(t)
	r := sleeper(n, runtimeDefault)
	var creates, execs []time.Duration
	for range 30 {
		c := n.container([]string{"/bin/sleep", "1000"}, runtimeDefault)
		began := time.Now()
		if _, err := n.Create(n.ctx(), c); err != nil {
			t.Fatal(err)
		}
		creates = append(creates, time.Since(began))
		began = time.Now()
		if res, err := n.Exec(n.ctx(), backends.ExecRequest{Pod: r.Pod, Container: r.Container, Command: []string{"/bin/true"}}); err != nil || res.ExitCode != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		execs = append(execs, time.Since(began))
	}
	if c := n.compiled(); c != 1 {
		t.Errorf("compiled %d times", c)
	}
	slices.Sort(creates)
	slices.Sort(execs)
	t.Logf("median with RuntimeDefault: create %v, exec %v", creates[15], execs[15])
}

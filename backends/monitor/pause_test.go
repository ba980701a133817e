package monitor_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// pause starts a pod's pause process; its bundle's root does not exist.
func pause(n *node) (backends.ProcessRequest, messages.ProcessState) {
	r := n.container([]string{"/pause"}, func(s *specs.Spec) {
		s.Root.Path = "rootfs"
		s.Process.Capabilities = &specs.LinuxCapabilities{}
		s.Mounts = s.Mounts[:1]
	})
	r.Container, r.Pause, r.LogPath = "", true, ""
	return r, n.run(r)
}

func sharePID(pid int) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Namespaces[0].Path = fmt.Sprintf("/proc/%d/ns/pid", pid) }
}

func TestThePauseProcessHoldsThePIDNamespaceAndReaps(t *testing.T) {
	n := newNode(t)
	p, s := pause(n)
	if s.Pod != p.Pod || s.Container != "" || s.Status != messages.ProcessRunning {
		t.Errorf("state: %+v", s)
	}
	r := n.container(shell(`echo "1 is $(cat /proc/1/comm)"; (sleep 0.1 &) ; sleep 0.3; ps -o stat,comm | grep -c Z; sleep 1000`), sharePID(s.Pid))
	n.run(r)
	n.eventually("the container has seen it", func() bool { return strings.Count(n.log(r), "\n") == 2 })
	if got := parse(t, n.log(r)); got[0] != "stdout F 1 is pause" || got[1] != "stdout F 0" {
		t.Errorf("log: %q", got)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(s.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	kib, _ := strconv.Atoi(regexp.MustCompile(`VmRSS:\s+(\d+)`).FindStringSubmatch(string(status))[1])
	t.Logf("the pause process uses %d KiB", kib)
	if kib > 100 {
		t.Errorf("%d KiB are too much", kib)
	}
	if err := n.Signal(n.ctx(), p.Pod, "", "SIGTERM", false); err != nil {
		t.Fatal(err)
	}
	if e := n.exit(r); e.ExitCode != 137 { // the kernel, with the namespace's init
		t.Errorf("container: %+v", e)
	}
	n.eventually("pause has ended by itself", func() bool {
		s, err := n.State(n.ctx(), p.Pod, "")
		return err == nil && s.Status == messages.ProcessExited && s.ExitCode == 0
	})
}

func TestAContainerReachesNothingOfTheNodeThroughPause(t *testing.T) {
	n := newNode(t)
	_, s := pause(n)
	r := sleeper(n, sharePID(s.Pid), func(s *specs.Spec) {
		caps := append(s.Process.Capabilities.Bounding, "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	})
	res, err := n.Exec(n.ctx(), execRequest(r, `
		ls /proc/1/root | tr '\n' ' '; ls -A /proc/1/root/etc /proc/1/root/sys | grep -v :
		echo x > /proc/1/root/pause && echo written
		echo x > /proc/1/exe && echo written
		echo x > /proc/1/root/new && echo written
		wc -c < /proc/1/exe; ls -l /proc/1/fd | grep -v total | sed 's/.*-> //' | sed 's/:.*//' | sort | uniq | tr '\n' ' '`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stdout:\n%s\nstderr:\n%s", res.Stdout, res.Stderr)
	if out := string(res.Stdout); strings.Contains(out, "written") || !strings.HasPrefix(out, "dev etc pause proc sys ") {
		t.Error("more can be reached than there should be")
	}
}

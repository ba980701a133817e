//go:build vm

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newer is the version of a second build of the same source (e2e/vm.sh).
const newer = "v99.0.0"

// programs are where install.sh puts what is upgraded.
var programs = map[string]string{"troupe": "/usr/local/bin", "troupe-monitor": "/usr/local/libexec/troupe"}

// install puts a build in the place of the installed one, as packages do: the
// programs that run keep their files.
func install(t *testing.T, from string) {
	t.Helper()
	for name, to := range programs {
		ok(t, command("install", "-m", "0755", "-t", to, filepath.Join(from, name)))
	}
}

func versionOf(t *testing.T) string {
	t.Helper()
	r, err := cri.Runtime.Version(t.Context(), &runtime.VersionRequest{})
	ok(t, err)
	return r.RuntimeVersion
}

// upgrade installs the newer build over the running one, and gives the way back.
func upgrade(t *testing.T) (back func()) {
	t.Helper()
	root, err := harness.ProjectRoot()
	ok(t, err)
	install(t, root+"/.cache/vm/newer")
	done := false
	back = func() {
		if !done {
			done = true
			install(t, root+"/bin")
		}
	}
	t.Cleanup(func() {
		back()
		systemctl(t, "restart", "troupe")
	})
	return back
}

func TestAnUpgradeAndADowngradeRestartNoPod(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "i=0; while :; do i=$((i+1)); echo $i; sleep 1; done", limits)
	pid, old := pidOf(t, c), versionOf(t)
	back := upgrade(t)
	systemctl(t, "restart", "troupe")
	if now := versionOf(t); !strings.Contains(now, strings.TrimPrefix(newer, "v")) {
		t.Fatalf("the version is %s after the upgrade, it was %s", now, old)
	}
	checkSame(t, "after the upgrade", c, pid)
	q := newPod(t, "") // by the newer daemon
	d := q.start(t, "exec sleep 100000", limits)
	other := pidOf(t, d)

	back()
	systemctl(t, "restart", "troupe")
	equal(t, "the version after the downgrade", versionOf(t), old)
	checkSame(t, "after the downgrade", c, pid)
	checkSame(t, "after the downgrade", d, other)
	log, err := os.ReadFile(statusOf(t, c).LogPath)
	ok(t, err)
	checkCounted(t, log)
}

// checkCounted sees that a log of numbers has each once, in order.
func checkCounted(t *testing.T, log []byte) {
	t.Helper()
	n := 0
	for line := range strings.Lines(string(log)) {
		fields := strings.Fields(line)
		n++
		if got := fields[len(fields)-1]; got != strconv.Itoa(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
	if n == 0 {
		t.Error("the log is empty")
	}
}

// A downgrade can meet records that the older daemon must not guess about.
func TestARecordOfANewerVersionIsPutAsideAndSaid(t *testing.T) {
	keep, give := newPod(t, ""), attempt(t, "newer", 0)
	c := keep.start(t, "exec sleep 100000", limits)
	lost := give.start(t, "exec sleep 100000", limits)
	pid := pidOf(t, c)
	systemctl(t, "stop", "troupe")
	record := "/var/lib/troupe/pods/" + give.id + "/record"
	text, err := os.ReadFile(record)
	ok(t, err)
	changed := bytes.Replace(text, []byte(`"version":1`), []byte(`"version":99`), 1)
	if bytes.Equal(text, changed) {
		t.Fatalf("the record does not begin with its version: %.80s", text)
	}
	ok(t, os.WriteFile(record, changed, 0o600))
	since := time.Now().Format("2006-01-02 15:04:05")
	systemctl(t, "start", "troupe")
	equal(t, "the daemon's unit", property(t, "troupe", "ActiveState"), "active")
	checkSame(t, "beside it", c, pid)
	said, err := exec.Command("journalctl", "--no-pager", "-o", "cat", "-u", "troupe", "--since", since).Output()
	ok(t, err)
	for _, want := range []string{"put aside", "written by a newer Troupe", give.id, "/var/lib/troupe/quarantine/"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("the journal does not say %q:\n%s", want, said)
		}
	}
	next := attempt(t, "newer", 1) // its name is free
	next.remove(t)
	// What it had goes after sweep_grace, processes first.
	gone := func() bool {
		out, _ := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "troupe-"+lost+".scope").Output()
		s, err := surveyor.Take()
		ok(t, err)
		for _, items := range s {
			for _, item := range items {
				if strings.Contains(item, give.id) || strings.Contains(item, lost) {
					return false
				}
			}
		}
		return len(out) == 0 && len(s["address"]) == 1 // keep's
	}
	for end := time.Now().Add(4 * time.Minute); !gone() && time.Now().Before(end); {
		time.Sleep(time.Second)
	}
	if !gone() {
		t.Error("what the pod had is not gone after four minutes")
	}
	kept, err := filepath.Glob("/var/lib/troupe/quarantine/" + give.id + "*")
	ok(t, err)
	if len(kept) == 0 {
		t.Error("the record is not kept")
	}
}

// A daemon that answers nobody any more is as good as dead, and systemd sees to it.
func TestADaemonThatHangsIsRestartedByItsWatchdog(t *testing.T) {
	const dropIn = "/etc/systemd/system/troupe.service.d/10-watchdog.conf"
	ok(t, write(dropIn, "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=5s\n"))
	t.Cleanup(func() {
		ok(t, os.Remove(dropIn))
		systemctl(t, "daemon-reload")
		systemctl(t, "restart", "troupe")
	})
	systemctl(t, "daemon-reload")
	systemctl(t, "restart", "troupe")
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	pid, daemon := pidOf(t, c), property(t, "troupe", "MainPID")
	number, err := strconv.Atoi(daemon)
	ok(t, err)
	ok(t, syscall.Kill(number, syscall.SIGSTOP))
	eventually(t, "systemd starts it again", func() bool {
		now := property(t, "troupe", "MainPID")
		return now != daemon && now != "0" && property(t, "troupe", "ActiveState") == "active"
	})
	checkSame(t, "after that", c, pid)
}

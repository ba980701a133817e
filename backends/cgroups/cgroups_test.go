package cgroups

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

// backend has a parent of its own, so that tests do not meet each other.
func backend(t *testing.T) *Backend {
	b, err := New(Config{Manager: Cgroupfs, Parent: "/troupe-test-" + conformance.ID(t)[:8]})
	ok(t, err)
	t.Cleanup(func() {
		held, err := b.Held(context.Background())
		ok(t, err)
		for _, h := range held {
			ok(t, b.Drop(context.Background(), h))
		}
		for _, h := range b.hierarchies {
			if _, err := os.Stat(filepath.Join(h.mount, b.parent)); err == nil {
				t.Errorf("the parent is left in %s", h.mount)
				_ = syscall.Rmdir(filepath.Join(h.mount, b.parent))
			}
		}
	})
	return b
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	conformance.Cgroups(t, func(t *testing.T) backends.Cgroups { return backend(t) })
}

// sleeper starts a process, which may fork, and puts it into a cgroup; the
// returned channel is closed when it has ended.
func sleeper(t *testing.T, dir, command string) (*exec.Cmd, <-chan struct{}) {
	t.Helper()
	ok(t, os.MkdirAll(dir, 0o755))
	cmd := exec.Command("sh", "-c", command)
	ok(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	ok(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0))
	return cmd, ended
}

func v1(t *testing.T, b *Backend, controller string) string {
	t.Helper()
	for _, h := range b.hierarchies {
		if !h.v2 && strings.HasSuffix(h.mount, "/"+controller) {
			return h.mount
		}
	}
	t.Skipf("this machine has no %s hierarchy of cgroup v1", controller)
	return ""
}

func wantEnd(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the process still runs")
	}
}

func TestRemoveKillsWhatIsLeftBelowThePodAlsoWhenFrozen(t *testing.T) {
	b := backend(t)
	pids, freezer := v1(t, b, "pids"), v1(t, b, "freezer")
	pod := conformance.ID(t)
	own, err := b.Make(t.Context(), pod, "")
	ok(t, err)
	_, first := sleeper(t, filepath.Join(pids, own, "container", "inner"), "while :; do sleep 0.01; done")
	cmd, second := sleeper(t, filepath.Join(freezer, own, "container"), "exec sleep 1000")
	ok(t, os.WriteFile(filepath.Join(freezer, own, "container", "freezer.state"), []byte("FROZEN"), 0))
	ok(t, b.Remove(t.Context(), pod))
	wantEnd(t, first)
	wantEnd(t, second)
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("ended by %v", cmd.ProcessState)
	}
}

func TestOnV2RemoveKillsTheWholeTree(t *testing.T) {
	b := backend(t)
	var only []hierarchy
	for _, h := range b.hierarchies {
		if h.v2 {
			h.foreign = false
			only = append(only, h)
		}
	}
	if len(only) == 0 {
		t.Skip("this machine has no cgroup v2 mount")
	}
	b.hierarchies = only
	pod := conformance.ID(t)
	own, err := b.Make(t.Context(), pod, "")
	ok(t, err)
	_, ended := sleeper(t, filepath.Join(only[0].mount, own, "container"), "while :; do sleep 0.01; done")
	ok(t, b.Remove(t.Context(), pod))
	wantEnd(t, ended)
	ok(t, b.Remove(t.Context(), pod))
}

func TestTheParentGoesWithItsLastPodAndNeighboursStay(t *testing.T) {
	b := backend(t)
	one, two := conformance.ID(t), conformance.ID(t)
	for _, pod := range []string{one, two} {
		_, err := b.Make(t.Context(), pod, "")
		ok(t, err)
	}
	ok(t, b.Remove(t.Context(), one))
	for _, h := range b.hierarchies {
		if _, err := os.Stat(filepath.Join(h.mount, b.own(two))); !h.foreign && err != nil {
			t.Error(err)
		}
	}
	ok(t, b.Remove(t.Context(), two)) // that the parent has gone is checked by backend
}

func TestTheDaemonNeverKillsItself(t *testing.T) {
	b := backend(t)
	// Where the daemon is now: the v2 tree where it is the only one, else that of pids.
	mount, mark := "", "0::"
	for _, h := range b.hierarchies {
		switch {
		case h.v2 && !h.foreign:
			mount = h.mount
		case strings.HasSuffix(h.mount, "/pids"):
			mount, mark = h.mount, ":pids:"
		}
	}
	before, err := os.ReadFile("/proc/self/cgroup")
	ok(t, err)
	home := "/"
	for line := range strings.Lines(string(before)) {
		if _, path, found := strings.Cut(strings.TrimSpace(line), mark); found {
			home = path
		}
	}
	pod := conformance.ID(t)
	own, err := b.Make(t.Context(), pod, "")
	ok(t, err)
	self := []byte(strconv.Itoa(os.Getpid()))
	ok(t, os.WriteFile(filepath.Join(mount, own, "cgroup.procs"), self, 0))
	defer func() { ok(t, b.Remove(context.Background(), pod)) }()
	defer func() { ok(t, os.WriteFile(filepath.Join(mount, home, "cgroup.procs"), self, 0)) }()
	if err := b.Remove(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "daemon itself") {
		t.Errorf("got %v", err)
	}
}

func TestEachManagerTakesItsOwnFormAndNamesTheFixForTheOther(t *testing.T) {
	for _, test := range []struct{ manager, requested, want, fix string }{
		{Cgroupfs, "/kubepods/besteffort/pod1", "/kubepods/besteffort/pod1", ""},
		{Cgroupfs, "kubepods/pod1/", "/kubepods/pod1", ""},
		{Cgroupfs, "/kubepods.slice", "", "cgroupDriver: cgroupfs"},
		{Systemd, "kubepods-pod1.slice", "kubepods-pod1.slice", ""},
		{Systemd, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice", "kubepods-burstable-pod1.slice", ""},
		{Systemd, "/kubepods/pod1", "", "cgroupDriver: systemd"},
		{Systemd, "a--b.slice", "", "systemd.slice(5)"},
		{Systemd, ".slice", "", "systemd.slice(5)"},
		{Systemd, "", "system.slice", ""},
	} {
		b, err := New(Config{Manager: test.manager})
		ok(t, err)
		pod := conformance.ID(t)
		got, err := b.Make(t.Context(), pod, test.requested)
		if got != test.want {
			t.Errorf("%s %q: parent %q, want %q (%v)", test.manager, test.requested, got, test.want, err)
		}
		if test.fix != "" && (messages.KindOf(err) != messages.Invalid || !strings.Contains(err.Error(), test.fix)) {
			t.Errorf("%s %q: %v", test.manager, test.requested, err)
		}
		ok(t, b.Remove(t.Context(), pod))
	}
	for _, c := range []Config{{}, {Manager: "runc"}, {Manager: Cgroupfs, Parent: "/"}, {Manager: Systemd, Parent: "/x"}} {
		if _, err := New(c); err == nil || messages.KindOf(err) != messages.Invalid {
			t.Errorf("%+v: %v, want kind Invalid", c, err)
		}
	}
}

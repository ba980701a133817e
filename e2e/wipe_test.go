package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// program is the daemon's program with its configuration, without its socket.
func (n *node) program(args ...string) *exec.Cmd {
	bin, _ := harness.Tool("troupe") // the daemon was started from it
	return exec.Command(bin, append([]string{"--config", n.daemon.Config}, args...)...)
}

// After a restart of the node, its pods are there as far as anything is known of
// them, and nothing of them is in the way: not their addresses, not their images.
func TestAfterAReboot(t *testing.T) {
	n := ownNode(t, sweeping("2s"))
	n.leavesNothing(t)
	t.Cleanup(func() { ok(t, n.daemon.Stop()); ok(t, n.daemon.StopMonitor()) }) // it is another one than before
	p := n.pod(t)
	running := p.start(t, "exec sleep 100000")
	ended := p.start(t, "exit 3")
	ended.exited(t)
	created := p.create(t, "exec sleep 100000")
	onHost := n.pod(t, func(c *runtime.PodSandboxConfig) { // it has no namespace that could be missed
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
			Network: runtime.NamespaceMode_NODE, Ipc: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_NODE,
		}}
	})
	leases := func() (addresses []string) {
		files, err := filepath.Glob(filepath.Join(n.daemon.Network.Addresses, "*", "10.*"))
		ok(t, err)
		return files
	}
	equal(t, "addresses in use before", len(leases()), 1)

	undo := must(n.daemon.Reboot())(t)
	t.Cleanup(func() { ok(t, undo()) })
	ok(t, n.daemon.Start(t.Context()))

	for _, id := range []string{p.id, onHost.id} {
		r, err := n.cri.Runtime.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: id})
		ok(t, err)
		equal(t, "the state of a pod of before, from the first answer on", r.Status.State, runtime.PodSandboxState_SANDBOX_NOTREADY)
	}
	for _, c := range []*container{running, created} {
		s := c.exited(t)
		if s.ExitCode == 0 || s.Reason != "Unknown" {
			t.Errorf("a container that the reboot ended: exit code %d, reason %q: nobody saw it", s.ExitCode, s.Reason)
		}
	}
	s := ended.status(t)
	equal(t, "the state of the one that had ended", s.State, runtime.ContainerState_CONTAINER_EXITED)
	equal(t, "its exit code", s.ExitCode, 3)
	equal(t, "its reason", s.Reason, "Error")
	eventually(t, "the address is free", func() bool { return len(leases()) == 0 })
	contains(t, "the log", n.daemon.Grep("since the last run", 3), "the node was restarted", "not shut down cleanly")

	// The kubelet's next attempt, from the image that is there.
	again := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Metadata = &runtime.PodSandboxMetadata{Name: p.config.Metadata.Name, Uid: p.config.Metadata.Uid, Namespace: "e2e", Attempt: 1}
	})
	equal(t, "what runs again", again.output(t, "echo works"), "works")
	equal(t, "who has what had no owner", len(n.leftovers(t)), 0)

	// A second start of the same boot changes nothing.
	ok(t, n.daemon.Stop())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the next attempt's state", again.status(t).State, runtime.PodSandboxState_SANDBOX_READY)
	contains(t, "the log of an orderly restart", n.daemon.Grep("msg=starting", 1), "starting")
}

func TestWipeWithoutForceSaysWhyNothingNeedsToBeWipedAndChangesNothing(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	pid := c.pid(t)
	wipe := func(want ...string) {
		t.Helper()
		out, err := n.program("wipe").CombinedOutput()
		if err != nil {
			t.Fatalf("troupe wipe: %v: %s", err, out)
		}
		contains(t, "what it says", string(out), append(want, "nothing needs to be wiped")...)
	}
	wipe() // also beside a daemon that runs
	ok(t, n.daemon.Kill())
	wipe("the daemon was killed")
	last := filepath.Join(n.daemon.Root, "last-run.json")
	text := string(must(os.ReadFile(last))(t))
	ok(t, os.WriteFile(last, []byte(strings.Replace(text, `"version":"`, `"version":"0.9-`, 1)), 0o600))
	wipe("the version was 0.9-")
	for what, harm := range map[string]func() error{
		"torn":        func() error { return os.WriteFile(last, []byte(`{"ver`), 0o600) },
		"gone":        func() error { return nil },
		"a directory": func() error { return os.MkdirAll(filepath.Join(last, "x"), 0o700) },
		"a pipe":      func() error { return unix.Mkfifo(last, 0o600) },
		"a link":      func() error { return os.Symlink("/dev/zero", last) },
		"big":         func() error { return os.Truncate(must(n.lab.Write("", "node", "lib", "last-run.json"))(t), 1<<40) },
	} {
		ok(t, os.RemoveAll(last))
		if err := harm(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		wipe("no earlier run is known")
		ok(t, n.daemon.Start(t.Context()))
		equal(t, "the container's pid", c.pid(t), pid)
		ok(t, n.daemon.Kill())
	}
	ok(t, os.RemoveAll(last))
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the pod's state", p.status(t).State, runtime.PodSandboxState_SANDBOX_READY)
	equal(t, "exec", c.exec(t, "echo works"), "works")
}

func TestWipeByForceRemovesPodsAndTheirImagesAndNothingElse(t *testing.T) {
	n := ownNode(t, nil)
	look := n.daemon.Surveyor()
	before := must(look.Take())(t)
	unused, _ := n.made(t, "unused", harness.ImageSpec{Env: []string{"UNUSED=yes"}})
	n.run(t, "pull", unused)
	var pids []int
	for range 2 {
		p := &pod{node: n, config: n.podConfig(t)}
		p.file = n.file(t, p.config)
		p.id = n.run(t, "runp", p.file)
		pids = append(pids, p.start(t, "trap '' TERM; while :; do sleep 1; done").pid(t))
		p.create(t, "exec sleep 100000")
	}
	merged := must(n.lab.Mkdir("node", "images", "overlay", "podmans", "merged"))(t) // podman's container on the same storage
	ok(t, unix.Mount("podman", merged, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })

	out, err := n.program("wipe", "--force").CombinedOutput()
	if err == nil {
		t.Fatalf("wiped under a daemon that runs: %s", out)
	}
	contains(t, "the refusal", string(out), "already uses", "stop that one")
	ok(t, n.daemon.Stop())
	if out, err = n.program("wipe", "--force").CombinedOutput(); err != nil {
		t.Fatalf("troupe wipe --force: %v: %s", err, out)
	}
	contains(t, "what it says", string(out), "process", "removed 1: image")
	t.Logf("%s", out)
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil && !zombie(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	if _, err := os.Stat(merged); err != nil {
		t.Error(err)
	}
	ok(t, unix.Unmount(merged, 0))
	if out, err = n.program("wipe", "--force").CombinedOutput(); err != nil || !strings.Contains(string(out), "nothing to remove") {
		t.Errorf("a second time: %v: %s", err, out)
	}
	left, err := look.Left(before, 10e9)
	ok(t, err)
	for _, l := range left {
		if !strings.HasPrefix(l, "process") { // the monitor is another one, below
			t.Errorf("left behind: %s", l)
		}
	}

	ok(t, n.daemon.Start(t.Context()))
	equal(t, "pods", n.run(t, "pods", "-q"), "")
	images := n.run(t, "images")
	contains(t, "the images", images, "unused")
	if strings.Contains(images, "lab/busybox") {
		t.Errorf("the pods' image is still there:\n%s", images)
	}
	n.run(t, "pull", n.image)
	equal(t, "what runs again", n.pod(t).output(t, "echo works"), "works")
}

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A daemon whose cgroup has no memory left is killed by the kernel somewhere on
// a pod's way, or a plugin it has started is: each time a little later, until
// the memory is enough. Containers run on, and the next daemon knows all of it.
func TestADaemonThatGetsNoMemoryLosesNothing(t *testing.T) {
	const hierarchy = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(filepath.Join(hierarchy, "memory.limit_in_bytes")); err != nil {
		t.Skip("no memory hierarchy of cgroup v1: ", err)
	}
	n := ownNode(t, nil)
	n.leavesNothing(t)
	c := n.sleeper(t)
	pid := c.pid(t)
	cgroup := filepath.Join(hierarchy, n.lab.Name+"-daemon")
	ok(t, os.Mkdir(cgroup, 0o755))
	t.Cleanup(func() { _ = os.Remove(cgroup) }) // the lab does it again, and looks
	move := func(to string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(n.daemon.Pid())), 0); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
	look := n.daemon.Surveyor()
	before := must(look.Take())(t)
	deaths, refusals := 0, 0
	for kib := 128; ; kib *= 2 { // what it has already is not counted there
		ok(t, os.WriteFile(filepath.Join(cgroup, "memory.limit_in_bytes"), fmt.Appendf(nil, "%dK", kib), 0))
		move(cgroup)
		step, err := n.lifeUnderLimit(t)
		move(hierarchy)
		if n.backAgain(t) {
			deaths++
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			t.Fatalf("%d KiB: a container did not survive: %v", kib, err)
		}
		equal(t, "exec", c.exec(t, "echo here"), "here")
		n.sameAs(t, fmt.Sprintf("%d KiB, %s: %v", kib, step, err), look, before)
		if err == nil || t.Failed() {
			break
		}
		refusals++
		if kib > 1<<20 {
			t.Fatalf("a pod needs more than it can: %s: %v", step, err)
		}
	}
	if deaths == 0 {
		t.Error("the daemon never lacked memory: the test shows nothing")
	}
	t.Logf("%d refusals, of which the daemon died in %d", refusals, deaths)
	equal(t, "the container's pid", c.pid(t), pid)
}

// backAgain waits until the daemon serves, starting it when it has died, and says
// whether it had. A kill may come a moment after its connections have ended.
func (n *node) backAgain(t *testing.T) (died bool) {
	t.Helper()
	eventually(t, "the daemon serves", func() bool {
		if n.daemon.Died() {
			died = true
			_ = n.daemon.Kill() // its status is still to be taken
			ok(t, n.daemon.Start(t.Context()))
		}
		_, err := n.cri.Runtime.Version(t.Context(), &runtime.VersionRequest{})
		return err == nil
	})
	return died
}

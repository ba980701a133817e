package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A disk error makes the kernel take no more writes (ext4's errors=remount-ro).
// What runs there runs on and can be stopped, new pods are refused with the
// reason, and once the disk is back all of it can be removed.
func TestADiskThatTurnsReadOnlyStopsNoPodAndKeepsNothing(t *testing.T) {
	lab := must(harness.NewLab())(t)
	t.Cleanup(func() { ok(t, lab.Close()) })
	disk := must(lab.NewJournaledDisk("root", 64))(t)
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Root = filepath.Join(disk.Dir, "lib") })
	n.leavesNothing(t)
	look := n.daemon.Surveyor()
	empty := must(look.Take())(t)
	p := n.pod(t) // its containers share a PID namespace: it has a process, and that a bundle
	c := p.start(t, "exec sleep 100000")
	before := must(look.Take())(t)

	ok(t, disk.Break())
	if err := os.WriteFile(filepath.Join(disk.Dir, "x"), nil, 0o600); err == nil {
		t.Fatal("the disk can be written to: the test shows nothing")
	}
	equal(t, "exec", c.exec(t, "echo here"), "here")
	_, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: n.podConfig(t)})
	refused(t, err, anyCode, "read-only file system")
	left := must(look.Left(before, 10*time.Second))(t)
	equal(t, "left of the refused pod", strings.Join(left, "; "), "")
	_, err = n.cri.Runtime.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: c.id})
	ok(t, err)
	equal(t, "the container's state", c.status(t).State, runtime.ContainerState_CONTAINER_EXITED)
	// That the pod is stopped cannot be written down, which may be said. Its
	// network is given back all the same.
	_, err = n.cri.Runtime.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
	t.Logf("stopping the pod: %v", err)
	eventually(t, "the pod's network has gone", func() bool {
		return !slices.ContainsFunc(empty.News(must(look.Take())(t)), func(left string) bool {
			return strings.HasPrefix(left, "link ") || strings.HasPrefix(left, "process ")
		})
	})

	ok(t, n.daemon.Kill())
	ok(t, disk.Repair())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the container's state afterwards", c.status(t).State, runtime.ContainerState_CONTAINER_EXITED)
	n.remove(t, p.id)
	if step, err := n.wholeLife(t); err != nil {
		t.Errorf("%s: %v", step, err)
	}
}

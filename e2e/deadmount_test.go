package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A file system whose server does not answer (NFS, FUSE): a stat of it never
// returns, and who asked cannot be killed. Only who uses it may notice.

func (n *node) deadFS(t *testing.T) *harness.Fuse {
	t.Helper()
	f := must(n.lab.NewFuse(fmt.Sprintf("fs-%d", serial.Add(1))))(t)
	t.Cleanup(func() { // whatever fails, nothing hangs for ever
		f.Heal()
		ok(t, f.Close())
	})
	return f
}

func (p *pod) createWithin(t *testing.T, within time.Duration, change ...func(*runtime.ContainerConfig)) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), within)
	defer cancel()
	r, err := p.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config, Config: p.containerConfig("exec sleep 100000", change...),
	})
	return r.GetContainerId(), err
}

// More pods than a lane has places: they must not hold those of the others.
func TestAMountSourceThatNeverAnswersIsOnlyItsOwnPodsTrouble(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	fs := n.deadFS(t)
	p := n.pod(t)
	fs.Hang()
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			begin := time.Now()
			_, err := p.createWithin(t, 5*time.Second, mount(&runtime.Mount{HostPath: fs.Dir, ContainerPath: "/data"}))
			if took := time.Since(begin); took > 8*time.Second {
				t.Errorf("a deadline of 5 s ended after %s", took)
			}
			if err == nil {
				t.Error("a container was made of a mount that does not answer")
			} else {
				refused(t, err, code(codes.DeadlineExceeded))
			}
		})
	}
	all.Wait()
	w.noticed(t, "40 creates hang in a dead mount source")

	// The pod with the dead mount can be removed meanwhile, or says why not;
	// when the file system is gone, it can.
	fs.Abort()
	n.remove(t, p.id)
	w.noticed(t, "the file system is gone")
	p2 := n.pod(t)
	_, err := p2.createWithin(t, 20*time.Second, mount(&runtime.Mount{HostPath: fs.Dir, ContainerPath: "/data"}))
	refused(t, err, nil, fs.Dir)
}

// The file system dies between the daemon's look and the mount: the init
// process of the container hangs in the kernel.
func TestAMountThatHangsInTheKernelIsOnlyItsOwnPodsTrouble(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	fs := n.deadFS(t)
	p := n.pod(t)
	// The look of the daemon passes: it is at another path. What is mounted
	// below the source is met by init alone.
	source := must(n.lab.Mkdir("plain"))(t)
	ok(t, os.Symlink(filepath.Join(fs.Dir, "file"), filepath.Join(source, "link")))
	work := func(c *runtime.ContainerConfig) { c.WorkingDir = "/data/link" }
	_ = work
	fs.Hang()
	begin := time.Now()
	id, err := p.createWithin(t, 5*time.Second, func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: source, ContainerPath: "/data"})
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: fs.Dir, ContainerPath: "/fs"})
		c.WorkingDir = "/data/link"
	})
	t.Logf("create: %s %v after %s", id, err, time.Since(begin))
	w.noticed(t, "init hangs")
}

// A process of a container hangs in the kernel and cannot be killed. A stop
// says so at its deadline, and goes on when the process can end.
func TestAProcessThatCannotBeKilledIsToldByStopAndEndsWhenItCan(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	fs := n.deadFS(t)
	p := n.pod(t)
	c := p.start(t, "cat /data/file; while [ ! -e /tmp/go ]; do sleep 0.05; done; exec cat /data/file", mount(&runtime.Mount{HostPath: fs.Dir, ContainerPath: "/data"}))
	eventually(t, "the file is read once", func() bool { return c.log(t) == "alive" })
	fs.Hang()
	c.exec(t, "touch /tmp/go")
	eventually(t, "it hangs in the kernel", func() bool { return fs.Waiting() > 0 })
	pid := c.pid(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	begin := time.Now()
	_, err := n.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.id, Timeout: 1})
	refused(t, err, code(codes.DeadlineExceeded), c.id[:12])
	t.Logf("stop after %s: %v", time.Since(begin), err)
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("a deadline of 5 s ended after %s", took)
	}
	equal(t, "the state of what still lives", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
	stat := must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))(t)
	if !strings.Contains(string(stat), ") D ") {
		t.Errorf("the process does not hang: %s", stat)
	}
	w.noticed(t, "a process cannot be killed")
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = n.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
	refused(t, err, code(codes.DeadlineExceeded, codes.Internal, codes.FailedPrecondition))
	t.Logf("remove: %v", err)
	fs.Heal()
	eventually(t, "the stop ends by itself", func() bool {
		s, err := n.cri.Runtime.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: p.id})
		return err != nil || s.Status.State == runtime.PodSandboxState_SANDBOX_NOTREADY
	})
	w.noticed(t, "after it")
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// smallDisk is a file system of its own that can be filled to the last page.
type smallDisk struct{ dir string }

func newSmallDisk(t *testing.T, options string) *smallDisk {
	t.Helper()
	dir := must(os.MkdirTemp("", "small"))(t)
	ok(t, os.Chmod(dir, 0o755))
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,"+options))
	t.Cleanup(func() {
		ok(t, unix.Unmount(dir, unix.MNT_DETACH))
		ok(t, os.Remove(dir))
	})
	return &smallDisk{dir}
}

// fill leaves so many KiB.
func (d *smallDisk) fill(t *testing.T, kib int64) {
	t.Helper()
	d.free(t)
	f := must(os.Create(filepath.Join(d.dir, "ballast")))(t)
	defer f.Close()
	var s unix.Statfs_t
	ok(t, unix.Statfs(d.dir, &s))
	if size := int64(s.Bavail)*s.Bsize - kib<<10; size > 0 {
		ok(t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	}
}

// fillInodes leaves so many.
func (d *smallDisk) fillInodes(t *testing.T, leave int) {
	t.Helper()
	d.free(t)
	dir := filepath.Join(d.dir, "many")
	ok(t, os.Mkdir(dir, 0o755))
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if errors.Is(err, unix.ENOSPC) {
			for j := range leave {
				ok(t, os.Remove(filepath.Join(dir, fmt.Sprint(i-1-j))))
			}
			return
		}
		ok(t, err)
		f.Close()
	}
}

func (d *smallDisk) free(t *testing.T) {
	t.Helper()
	ok(t, errors.Join(os.RemoveAll(filepath.Join(d.dir, "ballast")), os.RemoveAll(filepath.Join(d.dir, "many"))))
}

// wholeLife runs a pod with a container from its beginning to its end and gives
// the first refusal. The pod is removed in any case, which a full disk must allow.
func (n *node) wholeLife(t *testing.T) (step string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	config := n.podConfig(t)
	pod, err := n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "run", err
	}
	defer func() {
		n.remove(t, pod.PodSandboxId)
	}()
	c, err := n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: config, Config: n.containerConfig("echo up; exec sleep 100000"),
	})
	if err != nil {
		return "create", err
	}
	if _, err = n.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return "start", err
	}
	r, err := n.cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ContainerId, Cmd: []string{"echo", "here"}, Timeout: 20})
	if err != nil || string(r.Stdout) != "here\n" {
		return "exec", fmt.Errorf("%w %v", err, r)
	}
	_, err = n.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ContainerId})
	return "stop", err
}

// The disk gets full at every write there is on a pod's way: each time a little
// later, until all fits.
func TestADiskThatIsFullAtAnyWriteIsSaidAndNothingIsLeft(t *testing.T) {
	for _, which := range []struct {
		name string
		on   func(*harness.DaemonOptions, string)
	}{
		{"root", func(o *harness.DaemonOptions, dir string) { o.Root = filepath.Join(dir, "lib") }},
		{"run", func(o *harness.DaemonOptions, dir string) { o.Run = filepath.Join(dir, "run") }},
	} {
		for what, leave := range map[string]func(*smallDisk, *testing.T, int){
			"bytes":  func(d *smallDisk, t *testing.T, i int) { t.Helper(); d.fill(t, int64(4*i)) },
			"inodes": func(d *smallDisk, t *testing.T, i int) { t.Helper(); d.fillInodes(t, i) },
		} {
			t.Run(which.name+"/"+what, func(t *testing.T) {
				disk := newSmallDisk(t, "size=8m,nr_inodes=2000")
				n := ownNode(t, func(o *harness.DaemonOptions) { which.on(o, disk.dir) })
				n.leavesNothing(t)
				stays := n.sleeper(t)
				look := n.daemon.Surveyor()
				before := must(look.Take())(t)
				refusals := map[string]int{}
				for i := 0; ; i++ {
					if i > 150 {
						t.Fatal("a pod needs more than it can")
					}
					leave(disk, t, i)
					equal(t, "a container that runs", stays.exec(t, "echo here"), "here")
					step, err := n.wholeLife(t)
					if err == nil {
						break
					}
					refusals[step]++
					if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left") {
						t.Errorf("%d left, %s: %v", i, step, err)
					}
					left, err := look.Left(before, 20*time.Second)
					ok(t, err)
					for _, l := range left {
						t.Errorf("%d left, after %s: left behind: %s", i, step, l)
					}
					if t.Failed() {
						return
					}
				}
				t.Logf("refusals by step: %v", refusals)
				disk.free(t)
				if step, err := n.wholeLife(t); err != nil {
					t.Errorf("with space again: %s: %v", step, err)
				}
			})
		}
	}
}

// sleeper is a container whose process is what it will be: the node can be
// looked at.
func (n *node) sleeper(t *testing.T) *container {
	t.Helper()
	c := n.pod(t).start(t, "exec sleep 100000")
	cmdline := fmt.Sprintf("/proc/%d/cmdline", c.pid(t))
	eventually(t, "its command runs", func() bool {
		text, err := os.ReadFile(cmdline)
		return err == nil && strings.HasPrefix(string(text), "sleep")
	})
	return c
}

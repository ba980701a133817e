package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The daemon itself gets no more of what the kernel gives: descriptors,
// processes. It says so, nothing that runs notices, and it goes on when there
// is some again.

// A daemon that runs out of descriptors refuses what needs one with the reason.
func TestADaemonWithoutDescriptorsSaysSoAndGoesOnLater(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	c := n.sleeper(t)
	look := n.daemon.Surveyor()
	before := must(look.Take())(t)
	limit := func(soft int) {
		t.Helper()
		out, err := exec.Command("prlimit", "--pid", strconv.Itoa(n.daemon.Pid()), fmt.Sprintf("--nofile=%d:", soft)).CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	open := len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.daemon.Pid())))(t))
	refusals := 0
	for spare := range 16 {
		limit(open + spare)
		step, err := n.lifeUnderLimit(t)
		if err == nil {
			break
		}
		refusals++
		if !strings.Contains(err.Error(), "too many open files") {
			t.Errorf("%d spare, %s: %v", spare, step, err)
		}
		limit(1024)
		n.sameAs(t, fmt.Sprintf("%d spare", spare), look, before)
		if t.Failed() {
			return
		}
	}
	if refusals == 0 {
		t.Error("it never lacked a descriptor: the test shows nothing")
	}
	limit(1024)
	n.sameAs(t, "with descriptors again", look, before)
	equal(t, "a container that runs", c.exec(t, "echo here"), "here")
	if step, err := n.wholeLife(t); err != nil {
		t.Errorf("with descriptors again: %s: %v", step, err)
	}
	t.Logf("refused %d times", refusals)
}

// lifeUnderLimit is wholeLife without its removal, which comes when the limit is gone.
func (n *node) lifeUnderLimit(t *testing.T) (step string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer cancel()
	config := n.podConfig(t)
	pod, err := n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "run", err
	}
	_, err = n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId, SandboxConfig: config, Config: n.containerConfig("exec sleep 100000"),
	})
	return "create", err
}

// sameAs removes all pods but the first and waits until the node is as before.
func (n *node) sameAs(t *testing.T, what string, look harness.Surveyor, before harness.Survey) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		pods := n.allPods(t)
		for _, p := range pods {
			if oldest(pods) != p.Id {
				n.remove(t, p.Id)
			}
		}
		left, err := look.Left(before, 0)
		ok(t, err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: left behind:\n  %s", what, strings.Join(left, "\n  "))
			return
		}
	}
}

func oldest(pods []*runtime.PodSandbox) (id string) {
	var at int64
	for _, p := range pods {
		if id == "" || p.CreatedAt < at {
			id, at = p.Id, p.CreatedAt
		}
	}
	return id
}

// A daemon that may not fork (its cgroup's limit of processes) refuses, or ends
// and is started again, which Go decides; either way its containers run on and
// it is whole afterwards.
func TestADaemonThatMayNotForkLosesNothing(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	c := n.sleeper(t)
	pid := c.pid(t)
	cgroup := filepath.Join("/sys/fs/cgroup/pids", n.lab.Name+"-daemon")
	if _, err := os.Stat("/sys/fs/cgroup/pids"); err != nil {
		t.Skip("no pids hierarchy of cgroup v1: ", err)
	}
	ok(t, os.Mkdir(cgroup, 0o755))
	t.Cleanup(func() { _ = os.Remove(cgroup) }) // the lab does it again, and looks
	look := n.daemon.Surveyor()
	before := must(look.Take())(t)
	put := func(file, text string) {
		t.Helper()
		ok(t, os.WriteFile(filepath.Join(cgroup, file), []byte(text), 0))
	}
	put("cgroup.procs", strconv.Itoa(n.daemon.Pid()))
	threads := strings.TrimSpace(string(must(os.ReadFile(filepath.Join(cgroup, "pids.current")))(t)))
	put("pids.max", threads)
	step, err := n.lifeUnderLimit(t)
	if err == nil {
		t.Error("a pod was started without a fork: the test shows nothing")
	}
	t.Logf("%s: %v", step, err)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Errorf("a container did not survive: %v", err)
	}
	put("pids.max", "max")
	if _, err := n.cri.Runtime.Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Logf("the daemon has ended: %v", err)
		_ = n.daemon.Kill() // its status is still to be taken
		ok(t, n.daemon.Start(t.Context()))
	} else {
		ok(t, os.WriteFile("/sys/fs/cgroup/pids/cgroup.procs", []byte(strconv.Itoa(n.daemon.Pid())), 0))
	}
	equal(t, "the container's pid", c.pid(t), pid)
	equal(t, "exec", c.exec(t, "echo here"), "here")
	n.sameAs(t, "afterwards", look, before)
	if step, err := n.wholeLife(t); err != nil {
		t.Errorf("forking again: %s: %v", step, err)
	}
}

// A registry's process dies in the middle of a pull and comes back: the pull
// that waits gets its image, and others do not notice.
func TestARegistryThatDiesInThePullIsOnlyThePullsTrouble(t *testing.T) {
	n := ownNode(t, nil)
	f := must(n.lab.StartFaulty(n.registry))(t)
	n2 := nodeWith(t, f.Host)
	w := n2.witness(t)
	img := must(harness.BuildImage(harness.ImageSpec{Ballast: []int{4 << 20, 3 << 20}}))(t)
	must(n.registry.Push(t.Context(), "lab/dies", "1", img))(t)
	ref := f.Host + "/lab/dies:1"
	f.Set(harness.Hang)
	begun := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		defer cancel()
		_, err := n2.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
		begun <- err
	}()
	eventually(t, "the layers are asked for", func() bool { return f.Asked(img.LayerOrder[1]) > 0 })
	time.Sleep(time.Second)
	f.Down() // connections are reset, new ones refused
	time.Sleep(2 * time.Second)
	f.Set(harness.Healthy)
	ok(t, f.Up())
	err := <-begun
	w.noticed(t, "the registry died")
	if err != nil {
		contains(t, "the error", err.Error(), "lab/dies")
		t.Logf("the pull ended: %v", err)
		n2.run(t, "pull", ref)
	}
	equal(t, "images", len(n2.images(t)), 2)
}

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Containers that take all they can get: their own limits hold, and the others
// keep their answers. Processes compete for the same cores, so the witness is
// given more time than elsewhere.
const busyPatience = 10 * time.Second

func limited(change func(*runtime.LinuxContainerResources)) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { change(c.Linux.Resources) }
}

func TestAForkBombStaysWithinItsLimitAndCanBeStopped(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Runtime = "pids_limit = 200" })
	n.leavesNothing(t)
	w := n.witness(t)
	// A shell that cannot fork ends: pid 1 does not fork.
	c := n.pod(t).start(t, `bomb() { bomb | bomb & }; for i in 1 2 3 4; do (while :; do bomb; done) & done; exec sleep 100000`, limited(func(r *runtime.LinuxContainerResources) {
		r.CpuShares = 2
	}))
	most := 0
	// It has next to no CPU, and others are watched for as long as it takes.
	for begin := time.Now(); time.Since(begin) < 4*time.Second || !atPidsLimit(t, n, c.id) && time.Since(begin) < 40*time.Second; time.Sleep(50 * time.Millisecond) {
		most = max(most, cgroupCount(t, n, c.id))
	}
	if most > 200 || !atPidsLimit(t, n, c.id) {
		t.Errorf("it had up to %d processes; its limit is 200, and it came there: %t", most, atPidsLimit(t, n, c.id))
	}
	w.noticedWithin(t, "a fork bomb", busyPatience)
	begin := time.Now()
	n.run(t, "stop", "-t", "0", c.id)
	equal(t, "its state", c.status(t).State, runtime.ContainerState_CONTAINER_EXITED)
	eventually(t, "nothing of it lives", func() bool { return cgroupCount(t, n, c.id) == 0 })
	t.Logf("up to %d processes; gone %s after the stop", most, time.Since(begin).Round(time.Millisecond))
}

// atPidsLimit says whether a fork has failed for the container's limit (the
// kernel's cgroup-v2.rst, pids.events).
func atPidsLimit(t *testing.T, n *node, id string) bool {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		for _, f := range must(filepath.Glob(root + n.daemon.CgroupParent + "/*/*" + id + "/pids.events"))(t) {
			if text, err := os.ReadFile(f); err == nil && !strings.HasPrefix(string(text), "max 0\n") {
				return true
			}
		}
	}
	return false
}

// cgroupCount is how many processes a container has.
func cgroupCount(t *testing.T, n *node, id string) (count int) {
	t.Helper()
	found := must(filepath.Glob("/sys/fs/cgroup/pids" + n.daemon.CgroupParent + "/*/*" + id + "/cgroup.procs"))(t)
	more := must(filepath.Glob("/sys/fs/cgroup" + n.daemon.CgroupParent + "/*/*" + id + "/cgroup.procs"))(t)
	for _, f := range append(found, more...) {
		text, err := os.ReadFile(f)
		if err == nil {
			count += len(strings.Fields(string(text)))
		}
	}
	return count
}

func TestAMemoryHogIsKilledAloneAgainAndAgain(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	p := n.pod(t)
	for range 4 {
		c := p.start(t, "tail /dev/zero", limited(func(r *runtime.LinuxContainerResources) { r.MemoryLimitInBytes = 64 << 20 }))
		s := c.exited(t)
		equal(t, "its reason", s.Reason, "OOMKilled")
		equal(t, "its exit code", s.ExitCode, 137)
	}
	w.noticedWithin(t, "memory hogs", busyPatience)
}

// A container prints as fast as it can while its log is rotated: no line is
// lost or doubled, and the others keep their answers.
func TestALogFloodIsRotatedWithoutLossAndNobodyElseNotices(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	p := n.pod(t)
	const lines = 600_000
	c := p.start(t, fmt.Sprintf("seq 1 %d", lines))
	path := filepath.Join(p.config.LogDirectory, c.config.LogPath)
	var files []string
	for c.status(t).State == runtime.ContainerState_CONTAINER_RUNNING {
		old := fmt.Sprintf("%s.%d", path, len(files))
		ok(t, os.Rename(path, old))
		files = append(files, old)
		_, err := n.cri.Runtime.ReopenContainerLog(t.Context(), &runtime.ReopenContainerLogRequest{ContainerId: c.id})
		if err != nil {
			refused(t, err, code(codes.FailedPrecondition)) // it has just ended
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.exited(t)
	if _, err := os.Stat(path); err == nil {
		files = append(files, path)
	}
	next := 1
	for _, f := range files {
		for line := range strings.Lines(string(must(os.ReadFile(f))(t))) {
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(parts) != 4 || parts[3] != strconv.Itoa(next) || parts[2] != "F" {
				t.Fatalf("%s: want line %d, got %q", f, next, line)
			}
			next++
		}
	}
	equal(t, "lines", next-1, lines)
	t.Logf("%d lines in %d files", next-1, len(files))
	w.noticedWithin(t, "a log flood", busyPatience)
}

// 1,000 processes that nobody waits for: in a container whose pid 1 does not, and
// on the node's PID namespace, where they become the monitor's.
func TestAThousandZombiesTroubleNobody(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	w := n.witness(t)
	// Its pid 1 becomes a program that waits for nobody, and gets their orphans.
	own := n.pod(t).start(t, `i=0; while [ $i -lt 1000 ]; do (sleep 15 &); i=$((i+1)); done; exec sleep 100000`, func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	})
	time.Sleep(15 * time.Second)
	eventually(t, "it has its zombies", func() bool { return zombies(t) >= 900 })
	w.noticedWithin(t, "1,000 zombies in a container", busyPatience)
	begin := time.Now()
	n.run(t, "stop", "-t", "0", own.id)
	t.Logf("stopped with its zombies in %s", time.Since(begin).Round(time.Millisecond))

	host := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_NODE}
	}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_NODE}}
	})
	c := p.start(t, `i=0; while [ $i -lt 1000 ]; do (sleep 1 & ) ; i=$((i+1)); done; exec sleep 100000`, host)
	time.Sleep(2 * time.Second)
	eventually(t, "the monitor has reaped them", func() bool { return monitorZombies(t, n) == 0 })
	w.noticedWithin(t, "1,000 orphans of the monitor's", busyPatience)
	n.run(t, "stop", "-t", "0", c.id)
}

// zombies are all of the node's; it is the test's own.
func zombies(t *testing.T) int {
	t.Helper()
	all := must(filepath.Glob("/proc/[0-9]*/stat"))(t)
	count := 0
	for _, f := range all {
		stat, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(stat), ") Z ") {
			count++
		}
	}
	return count
}

func monitorZombies(t *testing.T, n *node) int {
	t.Helper()
	monitors := map[string]bool{}
	for _, pid := range n.daemon.Monitors() {
		monitors[strconv.Itoa(pid)] = true
	}
	count := 0
	for _, f := range must(filepath.Glob("/proc/[0-9]*/stat"))(t) {
		stat, err := os.ReadFile(f)
		_, rest, is := strings.Cut(string(stat), ") Z ")
		if err == nil && is && monitors[strings.Fields(rest)[0]] {
			count++
		}
	}
	return count
}

// 200 creates at once, every second of whose clients goes away: the others get
// theirs, and what nobody waits for any more can be found and removed.
func TestTwoHundredCreatesOfWhichHalfAreCancelledLeaveNothing(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	var all sync.WaitGroup
	for i := range 200 {
		config := p.containerConfig("exec sleep 100000")
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
			defer cancel()
			if i%2 == 1 {
				time.AfterFunc(time.Duration(i)*10*time.Millisecond, cancel)
			}
			r, err := n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: config})
			switch {
			case i%2 == 0 && err != nil:
				t.Errorf("a create whose client stays: %v", err)
			case err == nil && len(r.ContainerId) != 64:
				t.Errorf("an id %q", r.ContainerId)
			case err != nil:
				refused(t, err, code(codes.Canceled))
			}
		})
	}
	all.Wait()
	if made := len(strings.Fields(n.run(t, "ps", "-a", "-q"))); made < 100 {
		t.Errorf("%d containers are there", made)
	}
	begin := time.Now()
	n.remove(t, p.id)
	t.Logf("removed in %s", time.Since(begin).Round(time.Millisecond))
}

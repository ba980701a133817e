//go:build vm

package vm

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

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// counter keeps a number in its memory, and writes it to its log and to a file
// in its root: what of it is there after a restore was restored.
const counter = `rm /etc/passwd.gone 2>/dev/null; rm -f /bin/false; i=0; while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 1; done`

func counterConfig(name string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: image},
		Command: []string{"sh", "-c", counter}, LogPath: name + ".log",
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				Seccomp:    &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
				NoNewPrivs: true, NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
			},
		},
	}
}

// counted is the last number in a log, and the first.
func counted(t *testing.T, p *pod, log string) (first, last int) {
	t.Helper()
	data, _ := os.ReadFile(filepath.Join(p.config.LogDirectory, log))
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if n, err := strconv.Atoi(fields[len(fields)-1]); err == nil && fields[1] == "stdout" {
			if first == 0 {
				first = n
			}
			last = n
		}
	}
	return first, last
}

func startCounter(t *testing.T, p *pod) string {
	t.Helper()
	r, err := cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: counterConfig("counter")})
	ok(t, err)
	_, err = cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: r.ContainerId})
	ok(t, err)
	eventually(t, "it counts", func() bool { _, n := counted(t, p, "counter.log"); return n >= 3 })
	return r.ContainerId
}

// needsCRIU: the guest has it with VM_EXTRA=criu.
func needsCRIU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu does not work here: %v: %s", err, out)
	}
}

// patience is a context with the deadline that these calls must have.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// logCRIU shows the logs that the monitor keeps of what CRIU could not do.
func logCRIU(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	logs, _ := filepath.Glob("/run/troupe/monitor/criu/*.log")
	if len(logs) == 0 {
		out, _ := exec.Command("sh", "-c", "find /run/troupe /var/lib/troupe -path '*criu*' | head -20").Output()
		t.Logf("no logs of criu; there are %s", out)
	}
	for _, l := range logs {
		out, _ := exec.Command("tail", "-n", "40", l).Output()
		t.Logf("%s:\n%s", l, out)
	}
}

func TestACheckpointLeavesTheContainerRunning(t *testing.T) {
	needsCRIU(t)
	defer logCRIU(t)
	p := newPod(t, "")
	id := startCounter(t, p)
	archive := filepath.Join(t.TempDir(), "counter.tar")
	_, err := cri.Runtime.CheckpointContainer(patience(t), &runtime.CheckpointContainerRequest{ContainerId: id, Location: archive})
	ok(t, err)
	_, before := counted(t, p, "counter.log")
	eventually(t, "it goes on counting", func() bool { _, n := counted(t, p, "counter.log"); return n > before+1 })
	out, err := exec.Command("tar", "tf", archive).CombinedOutput()
	ok(t, err)
	for _, file := range []string{"checkpoint/inventory.img", "checkpoint/descriptors.json", "config.dump", "rootfs-diff.tar"} {
		if !strings.Contains(string(out), file) {
			t.Errorf("%s is not in the archive:\n%s", file, out)
		}
	}
}

func TestARestoredPodGoesOnFromWhereItWas(t *testing.T) {
	needsCRIU(t)
	defer logCRIU(t)
	old := newPod(t, "")
	id := startCounter(t, old)
	dir := t.TempDir()
	_, err := cri.Runtime.CheckpointPod(patience(t), &runtime.CheckpointPodRequest{PodSandboxId: old.id, OutputPath: dir, ContainerIds: []string{id}})
	ok(t, err)
	_, at := counted(t, old, "counter.log")
	_, err = cri.Runtime.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: old.id})
	ok(t, err)
	_, err = cri.Runtime.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: old.id})
	ok(t, err)

	p := restorable(t)
	made, err := cri.Runtime.RestorePod(patience(t), &runtime.RestorePodRequest{CheckpointPath: dir, Config: p.config, ContainerConfigs: []*runtime.ContainerConfig{counterConfig("counter")}})
	ok(t, err)
	p.id = made.PodSandboxId
	equal(t, "the number of containers", len(made.RestoredContainers), 1)
	again := made.RestoredContainers[0].ContainerId
	equal(t, "its state before it is started", statusOf(t, again).State, runtime.ContainerState_CONTAINER_CREATED)
	systemctl(t, "restart", "troupe") // a created one waits for its start, whatever daemon there is
	eventually(t, "the daemon is back", func() bool {
		r, err := cri.Runtime.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: again})
		return err == nil && r.Status.State == runtime.ContainerState_CONTAINER_CREATED
	})
	if first, _ := counted(t, p, "counter.log"); first != 0 {
		t.Error("it has run before it was started")
	}
	_, err = cri.Runtime.StartContainer(patience(t), &runtime.StartContainerRequest{ContainerId: again})
	ok(t, err)
	beside := p.start(t, "sleep 1000", nil) // an ordinary one of the same pod
	eventually(t, "it counts on", func() bool { _, n := counted(t, p, "counter.log"); return n > at+1 })
	if first, _ := counted(t, p, "counter.log"); first < 3 || first > at+1 {
		t.Errorf("it went on with %d, it was captured at about %d", first, at)
	}
	r, err := cri.Runtime.ExecSync(patience(t), &runtime.ExecSyncRequest{ContainerId: again, Timeout: 60, Cmd: []string{"sh", "-c", "cat /count; test -e /bin/false && echo there; cat /proc/1/status; cat /sys/fs/cgroup/memory.max; hostname"}})
	ok(t, err)
	out := string(r.Stdout)
	for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1", "67108864", p.config.Hostname} {
		if !strings.Contains(out, want) {
			t.Errorf("inside, there is no %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "there\n") {
		t.Error("a file that it had deleted is back")
	}
	for _, ns := range []string{"net", "ipc", "uts"} {
		is := func(id string) string {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pidOf(t, id), ns))
			ok(t, err)
			return link
		}
		equal(t, "its namespace", is(again), is(beside))
	}
	_, err = cri.Runtime.StopContainer(patience(t), &runtime.StopContainerRequest{ContainerId: again})
	ok(t, err)
	equal(t, "its state after a stop", statusOf(t, again).State, runtime.ContainerState_CONTAINER_EXITED)
	equal(t, "its exit code", statusOf(t, again).ExitCode, 137)
}

// restorable is the configuration of a pod that RestorePod makes; it is removed
// with the test.
func restorable(t *testing.T) *pod {
	t.Helper()
	p := newPod(t, "")
	ctx := context.WithoutCancel(t.Context())
	_, err := cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
	ok(t, err)
	return p
}

//go:build vm

package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var serial atomic.Int64

// pod is a sandbox; it is removed with the test, which then looks for what is
// left of it.
type pod struct {
	id     string
	config *runtime.PodSandboxConfig
}

func newPod(t *testing.T, slice string, change ...func(*runtime.PodSandboxConfig)) *pod {
	t.Helper()
	leavesNothing(t)
	p := &pod{config: podConfig(t, fmt.Sprintf("pod-%d", serial.Add(1)))}
	p.config.Linux.CgroupParent = slice
	for _, f := range change {
		f(p.config)
	}
	r, err := cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: p.config})
	ok(t, err)
	p.id = r.PodSandboxId
	t.Cleanup(func() { p.remove(t) })
	return p
}

// podConfig is a pod as the kubelet asks for it; its logs are where they
// survive a reboot.
func podConfig(t *testing.T, name string) *runtime.PodSandboxConfig {
	t.Helper()
	logs := "/var/log/pods/" + name
	ok(t, os.MkdirAll(logs, 0o755))
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "vm"},
		Hostname: name, LogDirectory: logs, Linux: &runtime.LinuxPodSandboxConfig{},
	}
}

func (p *pod) remove(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	_, err := cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
	if err == nil {
		_, err = cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
	}
	if err != nil {
		t.Errorf("removing the pod: %v", err)
	}
}

// start runs a shell command in a container of its own.
func (p *pod) start(t *testing.T, shell string, resources *runtime.LinuxContainerResources, change ...func(*runtime.ContainerConfig)) string {
	t.Helper()
	name := fmt.Sprintf("c-%d", serial.Add(1))
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: image},
		Command: []string{"sh", "-c", shell}, LogPath: name + ".log",
		Linux: &runtime.LinuxContainerConfig{Resources: resources, SecurityContext: &runtime.LinuxContainerSecurityContext{}},
	}
	for _, f := range change {
		f(config)
	}
	r, err := cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: config})
	ok(t, err)
	_, err = cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: r.ContainerId})
	ok(t, err)
	return r.ContainerId
}

func statusOf(t *testing.T, container string) *runtime.ContainerStatus {
	t.Helper()
	r, err := cri.Runtime.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: container})
	ok(t, err)
	return r.Status
}

func pidOf(t *testing.T, container string) int {
	t.Helper()
	pid, err := cri.Pid(t.Context(), container)
	ok(t, err)
	return pid
}

// execIn gives what a command in a container prints.
func execIn(t *testing.T, container, shell string) string {
	t.Helper()
	r, err := cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: container, Cmd: []string{"sh", "-c", shell}, Timeout: 30})
	ok(t, err)
	if r.ExitCode != 0 {
		t.Errorf("%s ended with %d: %s", shell, r.ExitCode, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// cgroupOf is the cgroup of a container's init process, below /sys/fs/cgroup.
func cgroupOf(t *testing.T, container string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pidOf(t, container)))
	ok(t, err)
	path, found := strings.CutPrefix(strings.TrimSpace(string(text)), "0::")
	if !found {
		t.Fatalf("this is not cgroup v2 alone: %s", text)
	}
	return path
}

func cgroupFile(t *testing.T, cgroup, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", cgroup, file))
	ok(t, err)
	return strings.TrimSpace(string(text))
}

// surveyor looks where the installed daemon's things would be.
var surveyor = harness.Surveyor{
	Cgroups: "troupe-", Addresses: "/var/lib/cni/networks/test", Bridge: "cni0",
	Files: []string{"/var/lib/troupe/pods", "/run/troupe/shm", "/run/troupe/ns/net", "/run/troupe/ns/ipc", "/run/troupe/ns/uts"},
}

// leavesNothing compares the node before the test with the node after it. Of
// processes only those in cgroups of containers are looked at: systemd starts
// others when it likes.
func leavesNothing(t *testing.T) {
	t.Helper()
	take := func() map[string]bool {
		s, err := surveyor.Take()
		ok(t, err)
		found := map[string]bool{}
		for _, kind := range []string{"mount", "link", "rule", "cgroup", "address", "file"} {
			for _, item := range s[kind] {
				found[kind+" "+item] = true
			}
		}
		scopes, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "troupe-*.scope").Output()
		ok(t, err)
		for line := range strings.Lines(string(scopes)) {
			found["unit "+strings.Fields(line)[0]] = true
		}
		return found
	}
	before := take()
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			left = nil
			for item := range take() {
				if !before[item] && !strings.Contains(item, "troupe-monitor.service") {
					left = append(left, item)
				}
			}
			if len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-o", "cat", "-n", "25", "-u", "troupe", "-u", "troupe-monitor").Output()
			t.Logf("the last lines of the journal:\n%s", out)
		}
	})
}

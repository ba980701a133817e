//go:build vm

package vm

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A reboot is two runs of this program on one disk (e2e/vm.sh): the first runs
// TestBeforeAReboot and writes down what it left running, the second runs the
// rest and finds it.
const notes = "/var/lib/troupe-vm-test.json"

// note is what was there before.
type note struct {
	Image                            string
	Pod, HostPod                     string // ids
	Running, Exited, Created, OnHost string // containers
	Boot                             string
}

func rebooted() bool {
	_, err := os.Stat(notes)
	return err == nil
}

func bootID(t *testing.T) string {
	t.Helper()
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ok(t, err)
	return strings.TrimSpace(string(id))
}

// before reads what the boot before left, once there has been one.
func before(t *testing.T) (n note) {
	t.Helper()
	text, err := os.ReadFile(notes)
	ok(t, err)
	ok(t, json.Unmarshal(text, &n))
	if n.Boot == bootID(t) {
		t.Fatal("the machine was not rebooted since TestBeforeAReboot")
	}
	return n
}

// attempt runs a pod that stays; its cgroup is the kubelet's to name.
func attempt(t *testing.T, name string, number uint32, change ...func(*runtime.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{config: podConfig(t, name)}
	p.config.Metadata.Attempt = number
	for _, f := range change {
		f(p.config)
	}
	r, err := cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: p.config})
	ok(t, err)
	p.id = r.PodSandboxId
	return p
}

func onHost(c *runtime.PodSandboxConfig) {
	c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}}
}

func TestBeforeAReboot(t *testing.T) {
	p, h := attempt(t, "app", 0), attempt(t, "on-host", 0, onHost)
	n := note{
		Image: image, Boot: bootID(t), Pod: p.id, HostPod: h.id,
		Running: p.start(t, "echo from before; exec sleep 100000", limits), Exited: p.start(t, "exit 3", nil),
		OnHost: h.start(t, "exec sleep 100000", nil),
	}
	r, err := cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "created"}, Image: &runtime.ImageSpec{Image: image}, LogPath: "created.log",
	}})
	ok(t, err)
	n.Created = r.ContainerId
	eventually(t, "one has ended", func() bool { return statusOf(t, n.Exited).State == runtime.ContainerState_CONTAINER_EXITED })
	text, err := json.Marshal(n)
	ok(t, err)
	ok(t, os.WriteFile(notes, text, 0o600))
}

func TestAfterARebootTheUnitsCameByThemselves(t *testing.T) {
	before(t)
	eventually(t, "the daemon is up", func() bool { return property(t, "troupe", "ActiveState") == "active" })
	equal(t, "the monitor's unit", property(t, "troupe-monitor", "ActiveState"), "active")
	equal(t, "restarts of the daemon", property(t, "troupe", "NRestarts"), "0")
	r, err := cri.Runtime.Status(t.Context(), &runtime.StatusRequest{})
	ok(t, err)
	for _, c := range r.Status.Conditions {
		if !c.Status && (c.Type == runtime.RuntimeReady || c.Type == runtime.NetworkReady) {
			t.Errorf("%s is false: %s %s", c.Type, c.Reason, c.Message)
		}
	}
}

func TestAfterARebootThePodsAreNotReadyAndTheContainersExited(t *testing.T) {
	n := before(t)
	for _, id := range []string{n.Pod, n.HostPod} {
		r, err := cri.Runtime.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: id})
		ok(t, err)
		equal(t, "the state of pod "+r.Status.Metadata.Name, r.Status.State, runtime.PodSandboxState_SANDBOX_NOTREADY)
	}
	for what, id := range map[string]string{"the running one": n.Running, "the one on the host's network": n.OnHost, "the one that was never started": n.Created} {
		s := statusOf(t, id)
		t.Logf("%s: %s, exit code %d, reason %q, message %q", what, s.State, s.ExitCode, s.Reason, s.Message)
		equal(t, "the state of "+what, s.State, runtime.ContainerState_CONTAINER_EXITED)
		// Success or a kill for memory would be a guess; the kubelet restarts by it.
		if s.ExitCode == 0 || s.Reason == "Completed" || s.Reason == "OOMKilled" || s.Reason == "" || s.FinishedAt < s.StartedAt || s.FinishedAt == 0 {
			t.Errorf("%s: exit code %d, reason %q, started %d, finished %d", what, s.ExitCode, s.Reason, s.StartedAt, s.FinishedAt)
		}
	}
	s := statusOf(t, n.Exited)
	equal(t, "the exit code of the one that had ended", s.ExitCode, 3)
	equal(t, "its reason", s.Reason, "Error")
	log, err := os.ReadFile(statusOf(t, n.Running).LogPath)
	ok(t, err)
	if !strings.Contains(string(log), "from before") {
		t.Errorf("the log from before is %q", log)
	}
}

func TestAfterARebootTheNextAttemptRunsFromTheImageThatIsThere(t *testing.T) {
	n := before(t)
	image = n.Image
	r, err := cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: image}})
	ok(t, err)
	if r.Image == nil {
		t.Fatalf("image %s is gone", image)
	}
	for _, next := range []*pod{attempt(t, "app", 1), attempt(t, "on-host", 1, onHost)} {
		t.Cleanup(func() { next.remove(t) })
		c := next.start(t, "exec sleep 100000", limits)
		checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
		equal(t, "exec in it", execIn(t, c, "echo works"), "works")
	}
}

func TestAfterARebootTheOldPodsGoAndLeaveNothing(t *testing.T) {
	n := before(t)
	for _, id := range []string{n.Pod, n.HostPod} {
		(&pod{id: id}).remove(t)
	}
	pods, err := cri.Runtime.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	ok(t, err)
	containers, err := cri.Runtime.ListContainers(t.Context(), &runtime.ListContainersRequest{})
	ok(t, err)
	if len(pods.Items) > 0 || len(containers.Containers) > 0 {
		t.Errorf("still listed: %v %v", pods.Items, containers.Containers)
	}
	s, err := surveyor.Take()
	ok(t, err)
	for kind, items := range s {
		for _, item := range items {
			for _, id := range []string{n.Pod, n.HostPod, n.Running, n.Exited, n.Created, n.OnHost} {
				if strings.Contains(item, id) {
					t.Errorf("left behind: %s %s", kind, item)
				}
			}
		}
	}
	if len(s["address"]) > 0 { // host-local keeps them on disk
		t.Errorf("addresses are still taken: %v", s["address"])
	}
	if out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "troupe-*.scope").Output(); err != nil || len(out) > 0 {
		t.Errorf("scopes: %v %s", err, out)
	}
}

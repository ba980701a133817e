//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestTheUnitIsStartedWhenTheDaemonServes(t *testing.T) {
	equal(t, "the unit's type", property(t, "troupe", "Type"), "notify")
	equal(t, "its state", property(t, "troupe", "ActiveState"), "active")
	equal(t, "the monitor's unit", property(t, "troupe-monitor", "ActiveState"), "active")
	if text := property(t, "troupe", "StatusText"); !strings.Contains(text, socket) {
		t.Errorf("the status text is %q, want the socket in it", text)
	}
	systemctl(t, "restart", "troupe") // returns at READY=1, and from then on it must answer
	if out, err := crictl.Run(t.Context(), "version"); err != nil {
		t.Errorf("right after its start: %v %s", err, out)
	}
	systemctl(t, "reload", "troupe") // returns when the signal is sent: Type=notify-reload, which waits, is not in Debian 12
	eventually(t, "it is active after a reload", func() bool { return property(t, "troupe", "ActiveState") == "active" })
}

func TestTheKubeletIsToldThatSystemdManagesCgroups(t *testing.T) {
	r, err := cri.Runtime.RuntimeConfig(t.Context(), &runtime.RuntimeConfigRequest{})
	ok(t, err)
	equal(t, "the driver", r.Linux.CgroupDriver, runtime.CgroupDriver_SYSTEMD)
	_, err = cri.Runtime.UpdateRuntimeConfig(t.Context(), &runtime.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtime.RuntimeConfig{NetworkConfig: &runtime.NetworkConfig{PodCidr: "10.88.0.0/16"}},
	})
	ok(t, err)
}

var limits = &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000}

// checkLimits looks at the kernel's files and at what systemd believes.
func checkLimits(t *testing.T, container, want string) {
	t.Helper()
	cgroup := cgroupOf(t, container)
	equal(t, "its cgroup", cgroup, want)
	equal(t, "memory.max", cgroupFile(t, cgroup, "memory.max"), "67108864")
	equal(t, "cpu.max", cgroupFile(t, cgroup, "cpu.max"), "50000 100000")
	if weight := cgroupFile(t, cgroup, "cpu.weight"); weight == "100" {
		t.Errorf("cpu.weight is the default, want one for 512 shares")
	}
	unit := "troupe-" + container + ".scope"
	equal(t, "systemd's MemoryMax", property(t, unit, "MemoryMax"), "67108864")
	equal(t, "systemd's Delegate", property(t, unit, "Delegate"), "yes")
}

func TestAPodWithoutACgroupIsInTroupesSlice(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "echo hello; exec sleep 100000", limits)
	checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
	equal(t, "what exec prints", execIn(t, c, "hostname; cat /sys/fs/cgroup/memory.max"), p.config.Hostname+"\n67108864")
	if out, err := crictl.Run(t.Context(), "inspect", c); err != nil || !strings.Contains(out, "CONTAINER_RUNNING") {
		t.Errorf("crictl inspect: %v %s", err, out)
	}
	// systemd writes its limits again at a reload: they must be the same.
	systemctl(t, "daemon-reload")
	checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
	equal(t, "a device after it", execIn(t, c, "head -c 3 /dev/zero | wc -c"), "3")

	scope := "troupe-" + c + ".scope"
	_, err := cri.Runtime.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: c})
	ok(t, err)
	_, err = cri.Runtime.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: c})
	ok(t, err)
	eventually(t, "the scope goes with its container", func() bool { return property(t, scope, "LoadState") == "not-found" })
}

func TestAPodIsInTheSliceTheKubeletNames(t *testing.T) {
	slice := fmt.Sprintf("kubepods-besteffort-pod%d.slice", os.Getpid())
	parent := "/kubepods.slice/kubepods-besteffort.slice/" + slice
	systemctl(t, "start", slice) // the kubelet makes it, and removes it afterwards
	t.Cleanup(func() { systemctl(t, "stop", slice) })
	p := newPod(t, parent)
	c := p.start(t, "exec sleep 100000", limits)
	checkLimits(t, c, parent+"/troupe-"+c+".scope")
	for name, pod := range map[string]string{"pod": p.id} {
		// Its pause process holds the shared PID namespace.
		if _, err := os.Stat("/sys/fs/cgroup" + parent + "/troupe-" + pod + ".scope"); err != nil {
			t.Errorf("the %s's own process is elsewhere: %v", name, err)
		}
	}
}

func TestASliceThatIsNotThereYetIsMade(t *testing.T) {
	slice := fmt.Sprintf("kubepods-burstable-pod%d.slice", os.Getpid())
	t.Cleanup(func() { systemctl(t, "stop", slice) })
	p := newPod(t, "/kubepods.slice/kubepods-burstable.slice/"+slice)
	c := p.start(t, "exec sleep 100000", nil)
	equal(t, "its cgroup", cgroupOf(t, c), "/kubepods.slice/kubepods-burstable.slice/"+slice+"/troupe-"+c+".scope")
}

func TestAPathIsRefusedWhereSystemdManages(t *testing.T) {
	leavesNothing(t)
	_, err := cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "path", Uid: "path", Namespace: "vm"},
		Linux:    &runtime.LinuxPodSandboxConfig{CgroupParent: "/kubepods/pod1"},
	}})
	if err == nil || !strings.Contains(err.Error(), "cgroupDriver: systemd") {
		t.Errorf("got %v, want the way out", err)
	}
}

func TestOutOfMemoryIsReportedAlsoWhenSystemdRemovesTheScope(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec tail /dev/zero", &runtime.LinuxContainerResources{MemoryLimitInBytes: 16 << 20})
	eventually(t, "it ends", func() bool { return statusOf(t, c).State == runtime.ContainerState_CONTAINER_EXITED })
	equal(t, "the reason", statusOf(t, c).Reason, "OOMKilled")
	equal(t, "the exit code", statusOf(t, c).ExitCode, 137)
}

// systemd's OOMPolicy=stop would end the whole scope for one process of it.
func TestAContainerSurvivesTheOOMKillOfAChild(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "echo 500 >/proc/self/oom_score_adj; tail /dev/zero & wait $!; echo 0 >/proc/self/oom_score_adj; echo survived; exec sleep 100000",
		&runtime.LinuxContainerResources{MemoryLimitInBytes: 32 << 20})
	eventually(t, "the kernel kills the child", func() bool {
		return strings.Contains(cgroupFile(t, cgroupOf(t, c), "memory.events"), "oom_kill 1")
	})
	eventually(t, "it is the child that has gone", func() bool { return !strings.Contains(execIn(t, c, "ps"), "tail /dev/zero") })
	equal(t, "the state", statusOf(t, c).State, runtime.ContainerState_CONTAINER_RUNNING)
}

// checkSame looks whether a container goes on as the same process.
func checkSame(t *testing.T, when, container string, pid int) {
	t.Helper()
	equal(t, "the state "+when, statusOf(t, container).State, runtime.ContainerState_CONTAINER_RUNNING)
	equal(t, "the pid "+when, pidOf(t, container), pid)
	equal(t, "exec "+when, execIn(t, container, "echo works"), "works")
}

func TestContainersSurviveTheDaemonsUnit(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	pid, monitor := pidOf(t, c), property(t, "troupe-monitor", "MainPID")
	systemctl(t, "restart", "troupe")
	checkSame(t, "after a restart", c, pid)
	daemon := property(t, "troupe", "MainPID")
	systemctl(t, "kill", "-s", "KILL", "troupe")
	eventually(t, "systemd starts the daemon again", func() bool {
		now := property(t, "troupe", "MainPID")
		return now != daemon && now != "0" && property(t, "troupe", "ActiveState") == "active"
	})
	checkSame(t, "after a SIGKILL", c, pid)
	systemctl(t, "stop", "troupe")
	ok(t, syscall.Kill(pid, 0))
	systemctl(t, "start", "troupe")
	checkSame(t, "after a stop and a start", c, pid)
	checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
	equal(t, "the monitor's pid", property(t, "troupe-monitor", "MainPID"), monitor)
	if out, err := exec.Command("systemctl", "stop", "troupe-monitor").CombinedOutput(); err == nil {
		t.Errorf("stopping the monitor by mistake was not refused: %s", out)
	}
}

func TestTheCgroupManagerCanBeChangedWhilePodsRun(t *testing.T) {
	old := newPod(t, "")
	before := old.start(t, "exec sleep 100000", limits)
	pid := pidOf(t, before)
	const dropIn = "/etc/troupe/troupe.conf.d/20-cgroupfs.conf"
	ok(t, os.WriteFile(dropIn, []byte("[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n"), 0o644))
	t.Cleanup(func() {
		ok(t, os.Remove(dropIn))
		systemctl(t, "restart", "troupe")
	})
	systemctl(t, "restart", "troupe")
	checkSame(t, "under the other manager", before, pid)
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	equal(t, "its cgroup", cgroupOf(t, c), "/troupe/pod-"+p.id+"/troupe-"+c)
	equal(t, "memory.max", cgroupFile(t, cgroupOf(t, c), "memory.max"), "67108864")
	equal(t, "what exec prints", execIn(t, c, "cat /sys/fs/cgroup/memory.max"), "67108864")
}

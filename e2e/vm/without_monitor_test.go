//go:build vm

package vm

import (
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The last tests, by their file's name: afterwards the monitor is one the daemon started.
func TestContainersSurviveTheMonitorsDeath(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	pid := pidOf(t, c)
	systemctl(t, "kill", "-s", "KILL", "troupe-monitor")
	eventually(t, "the daemon has a monitor again", func() bool {
		r, err := cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c, Cmd: []string{"true"}, Timeout: 10})
		return err == nil && r.ExitCode == 0
	})
	checkSame(t, "under the next monitor", c, pid)
	// That one is in the daemon's unit, and must outlive it there.
	systemctl(t, "restart", "troupe")
	checkSame(t, "after a restart of the daemon", c, pid)
	eventually(t, "the monitor's unit is content with that one", func() bool { return property(t, "troupe-monitor", "ActiveState") == "inactive" })
	next := newPod(t, "")
	fresh := next.start(t, "exec sleep 100000", limits)
	checkLimits(t, fresh, "/troupe.slice/troupe-"+fresh+".scope")
}

func TestContainersSurviveTheDeathOfBothUnits(t *testing.T) {
	p := newPod(t, "")
	c := p.start(t, "exec sleep 100000", limits)
	pid, daemon := pidOf(t, c), property(t, "troupe", "MainPID")
	systemctl(t, "kill", "-s", "KILL", "troupe-monitor", "troupe")
	eventually(t, "the daemon is back", func() bool {
		now := property(t, "troupe", "MainPID")
		return now != daemon && now != "0" && property(t, "troupe", "ActiveState") == "active"
	})
	eventually(t, "it has a monitor again", func() bool {
		r, err := cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c, Cmd: []string{"true"}, Timeout: 10})
		return err == nil && r.ExitCode == 0
	})
	checkSame(t, "after both died", c, pid)
	ends := p.start(t, "exit 3", nil)
	eventually(t, "a new one ends", func() bool { return statusOf(t, ends).State == runtime.ContainerState_CONTAINER_EXITED })
	equal(t, "its exit code", statusOf(t, ends).ExitCode, 3)
}

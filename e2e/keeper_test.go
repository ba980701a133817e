package e2e

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The deaths of the monitor alone are tested in backends/monitor; here is what a
// kubelet sees.
func TestPodsSurviveDaemonAndMonitorDyingTogether(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	stays := p.start(t, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	ends := p.start(t, "while [ ! -e /stop/now ]; do sleep 0.05; done; echo last words; exit 23", mount(&runtime.Mount{
		HostPath: must(n.lab.Mkdir("stop"))(t), ContainerPath: "/stop",
	}))
	created := p.create(t, "exec sleep 100000")
	pid, address := stays.pid(t), p.status(t).Network.Ip
	for round := range 3 {
		monitor := n.daemon.Monitors()[0]
		ok(t, syscall.Kill(monitor, syscall.SIGKILL))
		ok(t, n.daemon.Kill())
		if round == 1 { // it ends while neither of the two that could tell is there
			must(n.lab.Write("", "stop", "now"))(t)
			time.Sleep(300 * time.Millisecond)
		}
		ok(t, n.daemon.Start(t.Context()))
		equal(t, "the pod's state", p.status(t).State, runtime.PodSandboxState_SANDBOX_READY)
		equal(t, "its address", p.status(t).Network.Ip, address)
		equal(t, "the running container's pid", stays.pid(t), pid)
		equal(t, "exec", stays.exec(t, "echo works"), "works")
		equal(t, "keepers", len(n.daemon.Keepers()), 1)
	}
	s := ends.exited(t)
	equal(t, "the exit code that happened meanwhile", s.ExitCode, 23)
	equal(t, "its reason", s.Reason, "Error")
	equal(t, "its last words", ends.lines(t)[0].text, "last words")
	equal(t, "the created container's state", created.status(t).State, runtime.ContainerState_CONTAINER_CREATED)
	n.run(t, "start", created.id)
	n.run(t, "stop", "-t", "0", stays.id)
	lines := stays.lines(t)
	for i, l := range lines {
		if l.text != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q: something was lost or doubled", i+1, l.text)
		}
	}
	t.Logf("%d lines, each once and in order", len(lines))
}

// A daemon that only the monitor's death touches goes on, and so do its calls.
func TestAKubeletHardlyNoticesTheMonitorsDeath(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	pid := c.pid(t)
	for range 5 {
		ok(t, syscall.Kill(n.daemon.Monitors()[0], syscall.SIGKILL))
		began := time.Now()
		eventually(t, "exec works again", func() bool {
			r, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"true"}, Timeout: 10})
			return err == nil && r.ExitCode == 0
		})
		t.Logf("exec works %v after the monitor's death", time.Since(began).Round(time.Millisecond))
		equal(t, "the state", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
		equal(t, "its pid", c.pid(t), pid)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Error(err)
	}
	next := n.pod(t).start(t, "exit 3")
	equal(t, "a new container's exit code", next.exited(t).ExitCode, 3)
}

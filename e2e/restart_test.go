package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodsSurviveTheDaemonsDeath(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t)
	stays := p.start(t, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	ends := p.start(t, "while [ ! -e /stop/now ]; do sleep 0.05; done; exit 23", mount(&runtime.Mount{
		HostPath: must(n.lab.Mkdir("stop"))(t), ContainerPath: "/stop",
	}))
	created := p.create(t, "exec sleep 100000")
	pid, address := stays.pid(t), p.status(t).Network.Ip

	ok(t, n.daemon.Kill())
	must(n.lab.Write("", "stop", "now"))(t)
	time.Sleep(500 * time.Millisecond) // the second container ends while nobody looks
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
		t.Fatalf("the container died with the daemon: %v", err)
	}
	ok(t, n.daemon.Start(t.Context()))

	equal(t, "the pod's state", p.status(t).State, runtime.PodSandboxState_SANDBOX_READY)
	equal(t, "its address", p.status(t).Network.Ip, address)
	equal(t, "the running container's pid", stays.pid(t), pid)
	s := ends.exited(t)
	equal(t, "the exit code that happened meanwhile", s.ExitCode, 23)
	equal(t, "its reason", s.Reason, "Error")
	equal(t, "the created container's state", created.status(t).State, runtime.ContainerState_CONTAINER_CREATED)
	n.run(t, "start", created.id)
	equal(t, "exec after the restart", stays.exec(t, "echo works"), "works")

	n.run(t, "stop", "-t", "0", stays.id)
	for i, l := range stays.lines(t) {
		if l.text != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q: something was lost or doubled", i+1, l.text)
		}
	}
}

// A daemon that answers has its pods back: nobody who asks early is told that
// a running container does not run.
func TestADaemonThatAnswersKnowsItsContainers(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	var all []*container
	for range 5 {
		all = append(all, n.pod(t).start(t, "exec sleep 100000"))
	}
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(t.Context()))
	for _, c := range all {
		equal(t, "the state", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
		r, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"true"}, Timeout: 10})
		ok(t, err)
		equal(t, "what true ends with", r.ExitCode, 0)
	}
}

func TestADaemonKilledAmidAStartLeavesNothingUnowned(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	for i := range 6 {
		config := n.podConfig(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config}) // it is cut off
		}()
		time.Sleep(time.Duration(i*7) * time.Millisecond)
		ok(t, n.daemon.Kill())
		<-done
		ok(t, n.daemon.Start(t.Context()))
		// The kubelet's retry gets the pod, begun or not.
		var id string
		eventually(t, "the retry succeeds", func() bool {
			r, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config})
			id = r.GetPodSandboxId()
			return err == nil
		})
		for _, other := range strings.Fields(n.run(t, "pods", "-q", "--no-trunc")) {
			n.remove(t, other)
		}
		if id == "" {
			t.Error("no pod")
		}
	}
}

func TestSIGTERMLeavesContainersRunning(t *testing.T) {
	n := ownNode(t, nil)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	pid := c.pid(t)
	ok(t, n.daemon.Stop())
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the container ended with the daemon: %v", err)
	}
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "its pid", c.pid(t), pid)
}

package e2e

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var recoveryPods = flag.Int("recovery-pods", 60, "pods of the recovery test (make recovery: 500)")

// What a node's daemon has after its death must be there again at once: the
// socket answers within a second, what runs can be asked for and commanded while
// other pods are still being taken up, and within five seconds all of them are
// (issue 6; 500 pods on two cores. The test's own figure is smaller, make
// recovery takes the whole).
func TestPodsComeBackSoonAfterTheDaemonsDeath(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) { o.LogLevel = "info" })
	n.leavesNothing(t)
	began := time.Now()
	all := n.many(t, *recoveryPods)
	made := time.Since(began)

	ok(t, n.daemon.Kill())
	began = time.Now()
	ok(t, n.daemon.Start(t.Context()))
	answers, busy := time.Since(began), must(n.daemon.CPU())(t)

	list, err := n.cri.Runtime.ListContainers(t.Context(), &runtime.ListContainersRequest{
		Filter: &runtime.ContainerFilter{State: &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING}},
	})
	ok(t, err)
	equal(t, "running containers that are listed at once", len(list.Containers), len(all))

	// An exec in any one goes through its actor, which keeps it until it is back.
	r, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: all[len(all)/2], Cmd: []string{"true"}, Timeout: 10})
	ok(t, err)
	equal(t, "what true ends with", r.ExitCode, 0)
	first := time.Since(began)
	parallel(32, all, func(id string) {
		if _, err := n.cri.Runtime.ReopenContainerLog(t.Context(), &runtime.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Errorf("the log of %.12s is reopened: %v", id, err)
		}
	})
	whole := time.Since(began)
	fmt.Printf("recovery: %d pods, a container each (made in %.1f s): the socket answers after %.0f ms (%d ms of CPU), the first exec has ended after %.0f ms, every pod has done something after %.0f ms (%d ms of CPU)\n",
		len(all), made.Seconds(), ms(answers), busy.Milliseconds(), ms(first), ms(whole), must(n.daemon.CPU())(t).Milliseconds())
	for what, took := range map[string][2]time.Duration{
		"the socket answers": {answers, time.Second}, "all pods are back": {whole, 5 * time.Second},
	} {
		if took[0] > took[1] {
			t.Errorf("%s after %v: must be within %v", what, took[0], took[1])
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// many makes pods in the node's network, each with a container that sleeps:
// what is cheap, because not their making is measured. They go with the test.
func (n *node) many(t *testing.T, count int) []string {
	t.Helper()
	var mu sync.Mutex
	var containers, pods []string
	t.Cleanup(func() { parallel(16, pods, func(pod string) { n.remove(t, pod) }) })
	configs := make([]*runtime.PodSandboxConfig, count)
	for i := range configs {
		configs[i] = n.podConfig(t, func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER}}
		})
	}
	parallel(16, configs, func(config *runtime.PodSandboxConfig) {
		p, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config})
		if err != nil {
			t.Errorf("a pod is made: %v", err)
			return
		}
		mu.Lock()
		pods = append(pods, p.PodSandboxId)
		mu.Unlock()
		spec := n.containerConfig("exec sleep 100000", func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
		})
		c, err := n.cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: spec, SandboxConfig: config})
		if err == nil {
			_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: c.ContainerId})
		}
		if err != nil {
			t.Errorf("a container is started: %v", err)
			return
		}
		mu.Lock()
		containers = append(containers, c.ContainerId)
		mu.Unlock()
	})
	if t.Failed() {
		t.FailNow()
	}
	return containers
}

// parallel calls f for each, a few at a time, and waits.
func parallel[T any](atATime int, each []T, f func(T)) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for _, one := range each {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			f(one)
		})
	}
	wait.Wait()
}

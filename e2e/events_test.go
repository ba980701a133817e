package e2e

import (
	"context"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestEventsTellAPodsWholeLifeEachWithItsStatus(t *testing.T) {
	n := theNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := n.cri.Runtime.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	ok(t, err)
	_, err = stream.Header() // from here on nothing is missed
	ok(t, err)

	p := n.pod(t)
	c := p.start(t, "exit 7")
	c.exited(t)
	n.run(t, "rm", c.id)
	n.run(t, "stopp", p.id)
	n.run(t, "rmp", p.id)

	var told []string
	for want := 8; len(told) < want; {
		e, err := stream.Recv()
		ok(t, err)
		who := map[string]string{p.id: "pod", c.id: "container"}[e.ContainerId]
		if who == "" {
			continue // another test's pod is going
		}
		told = append(told, who+" "+strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
		// The kubelet throws an event away that does not say whose it is.
		if e.PodSandboxStatus.GetId() != p.id || e.PodSandboxStatus.GetMetadata().GetUid() != p.config.Metadata.Uid {
			t.Errorf("%s: the pod's status is %v", told[len(told)-1], e.PodSandboxStatus)
		}
		if told[len(told)-1] == "container STOPPED" {
			equal(t, "the exit code in the event", e.ContainersStatuses[0].ExitCode, 7)
		}
	}
	equal(t, "what was told", strings.Join(told, ", "),
		"pod CREATED, pod STARTED, container CREATED, container STARTED, container STOPPED, container DELETED, pod STOPPED, pod DELETED")
}

func TestExitReasonsAreTheFieldsWords(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	profile := must(n.lab.Write(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}`, "profiles", "no-mkdir.json"))(t)
	confined := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: profile}
	}
	for _, c := range []struct {
		container *container
		reason    string
		code      int32
	}{
		{p.start(t, "true"), "Completed", 0},
		{p.start(t, "exit 3"), "Error", 3},
		{p.start(t, "kill -KILL $$"), "Error", 137}, // not process 1: the pod shares a PID namespace
		{p.start(t, "exec mkdir /tmp/x", confined), "seccomp killed", 159},
	} {
		s := c.container.exited(t)
		equal(t, "the reason of "+strings.Join(c.container.config.Command, " "), s.Reason, c.reason)
		equal(t, "its exit code", s.ExitCode, c.code)
	}
}

func TestTheStopSignalIsTheContainersElseTheImages(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	waits := "trap 'echo USR2; exit 0' USR2; trap 'echo TERM; exit 0' TERM; echo up; while :; do sleep 0.05; done"
	own := p.start(t, waits, func(c *runtime.ContainerConfig) { c.StopSignal = runtime.Signal_SIGNAL_SIGUSR2 })
	usual := p.start(t, waits)
	for _, c := range []struct {
		container *container
		signal    runtime.Signal
		word      string
	}{{own, runtime.Signal_SIGNAL_SIGUSR2, "USR2"}, {usual, runtime.Signal_SIGNAL_SIGTERM, "TERM"}} {
		eventually(t, "the trap is set", func() bool { return strings.Contains(c.container.log(t), "up") })
		equal(t, "the signal that is reported", c.container.status(t).StopSignal, c.signal)
		n.run(t, "stop", "-t", "20", c.container.id)
		contains(t, "its log", c.container.log(t), c.word)
	}
}

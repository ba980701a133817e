//go:build kubelet

package kubelet

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cast is one pod of each kind that a restart of something could disturb.
var cast = map[string]string{
	"plain":   `containers: [{name: a, image: IMAGE}, {name: b, image: IMAGE}]`,
	"probed":  `containers: [{name: a, image: IMAGE, livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1, failureThreshold: 3}, readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}}]`,
	"sidecar": "initContainers: [{name: s, image: IMAGE, restartPolicy: Always}, {name: i, image: IMAGE, command: ['true']}]\ncontainers: [{name: a, image: IMAGE}]",
	"shared":  "shareProcessNamespace: true\ncontainers: [{name: a, image: IMAGE}, {name: b, image: IMAGE}]",
	"host":    "hostNetwork: true\ncontainers: [{name: a, image: IMAGE}]",
	"port":    `containers: [{name: a, image: IMAGE, ports: [{containerPort: 8080, hostPort: 18081}]}]`,
	"logging": `containers: [{name: a, image: IMAGE, command: [sh, -c, "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"]}]`,
	"limited": `containers: [{name: a, image: IMAGE, resources: {limits: {cpu: 200m, memory: 32Mi}}}]`,
}

// lives is what of a node's pods must not change: containers, attempts, starts,
// processes, addresses.
func lives(t *testing.T, pods map[string]*static) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, p := range pods {
		s := p.status(t)
		for _, list := range [][]containerStatus{s.ContainerStatuses, s.InitContainerStatuses} {
			for _, c := range list {
				if c.State.Running == nil {
					continue
				}
				pid, err := p.cri.Pid(background, strings.TrimPrefix(c.ContainerID, "troupe://"))
				ok(t, err)
				out[name+"/"+c.Name] = fmt.Sprintf("%s restarts %d started %v pid %d", c.ContainerID, c.RestartCount, c.State.Running.StartedAt, pid)
			}
		}
		for _, b := range p.sandboxes(t) {
			out[name+"/sandbox"] += b.Id + " " + b.State.String() + " " + s.PodIP + " "
		}
	}
	return out
}

// unmoved runs the cast, does something to the node, and checks that no pod
// noticed.
func unmoved(t *testing.T, disturb func(n *node)) {
	n := ownNode(t, nodeOptions{})
	pods := map[string]*static{}
	for name, spec := range cast {
		pods[name] = n.pod(t, spec)
	}
	for _, p := range pods {
		p.ready(t)
	}
	before := lives(t, pods)
	disturb(n)
	for _, p := range pods {
		p.ready(t)
	}
	settled(t, n)
	after := lives(t, pods)
	for what, was := range before {
		if after[what] != was {
			t.Errorf("%s was %s\nand is  %s", what, was, after[what])
		}
	}
	equal(t, "running containers and sandboxes", len(after), len(before))

	// Not a line of the log was lost or doubled, and the pods end as ever.
	for i, line := range strings.Split(pods["logging"].log(t, "a", ""), "\n") {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
}

// settled waits until the kubelet has looked at all its pods several times.
func settled(t *testing.T, n *node) {
	t.Helper()
	p := n.pod(t, "containers: [{name: a, image: IMAGE, command: [sh, -c, 'exit 1']}]")
	p.until(t, "a pod of the kubelet's after the disturbance has been synced three times", func(s *status) bool { return s.of("a").RestartCount >= 3 })
}

func TestAKubeletThatIsKilledRestartsNoPod(t *testing.T) {
	unmoved(t, func(n *node) {
		ok(t, n.kubelet.Kill())
		ok(t, n.kubelet.Start(background))
	})
}

func TestADaemonThatIsKilledRestartsNoPod(t *testing.T) {
	unmoved(t, func(n *node) {
		for range 3 {
			ok(t, n.daemon.Kill())
			time.Sleep(1500 * time.Millisecond) // the kubelet's next looks fail
			ok(t, n.daemon.Start(background))
		}
	})
}

func TestBothKilledAtOnceRestartNoPod(t *testing.T) {
	unmoved(t, func(n *node) {
		ok(t, n.daemon.Kill())
		ok(t, n.kubelet.Kill())
		ok(t, n.daemon.Start(background))
		ok(t, n.kubelet.Start(background))
	})
}

// The kubelet is told of a pod, and the daemon dies while it makes it.
func TestPodsComeUpAlthoughTheDaemonDiesWhileMakingThem(t *testing.T) {
	n := ownNode(t, nodeOptions{})
	var pods []*static
	for i := range 6 {
		pods = append(pods, n.pod(t, `
initContainers: [{name: i, image: IMAGE, command: [sleep, "0.3"]}]
containers: [{name: a, image: IMAGE}, {name: b, image: IMAGE}]
`))
		time.Sleep(time.Duration(300+137*i) * time.Millisecond)
		ok(t, n.daemon.Kill())
		ok(t, n.daemon.Start(background))
	}
	for _, p := range pods {
		s := p.ready(t)
		for _, c := range s.ContainerStatuses {
			running := 0
			for _, made := range p.containers(t, c.Name) {
				if made.State.String() == "CONTAINER_RUNNING" {
					running++
				}
			}
			equal(t, "running containers called "+c.Name, running, 1)
		}
		live := 0
		for _, b := range p.sandboxes(t) {
			if b.State.String() == "SANDBOX_READY" {
				live++
			}
		}
		equal(t, "ready sandboxes", live, 1)
	}
}

// What ends while the kubelet is away is restarted when it is back.
func TestWhatEndsWhileTheKubeletIsAwayIsRestarted(t *testing.T) {
	n := ownNode(t, nodeOptions{})
	p := n.pod(t, "containers: [{name: a, image: IMAGE, command: [sh, -c, \"trap 'exit 21' TERM; touch /tmp/up; while :; do sleep 0.1; done\"], readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}]")
	p.ready(t)
	id := p.id(t, "a")
	ok(t, n.kubelet.Kill())
	stop(t, n, id)
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(background))
	ok(t, n.kubelet.Start(background))
	s := p.until(t, "it runs again", func(s *status) bool { return s.of("a").RestartCount == 1 && s.of("a").Ready })
	equal(t, "the exit code of the first", s.of("a").LastState.Terminated.ExitCode, 21)
}

// Events make the kubelet look at once, and lists come as streams.
func TestEventsAndStreamingLists(t *testing.T) {
	n := ownNode(t, nodeOptions{config: map[string]any{"featureGates": map[string]any{"EventedPLEG": true, "CRIListStreaming": true}}})
	p := n.pod(t, "containers: [{name: a, image: IMAGE, command: [sh, -c, \"trap 'exit 7' TERM; touch /tmp/up; while :; do sleep 0.1; done\"], readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}]")
	p.ready(t)
	p.exec(t, "a", "kill 1")
	s := p.until(t, "it is restarted", func(s *status) bool { return s.of("a").RestartCount == 1 && s.of("a").Ready })
	equal(t, "the exit code", s.of("a").LastState.Terminated.ExitCode, 7)
	for _, bad := range []string{"Evented PLEG: failed", "Fallback to Generic PLEG", "max retries", "falling back to unary"} {
		if found := n.kubelet.Grep(bad); found != "" {
			t.Errorf("the kubelet gave up on events or streams: %s", found)
		}
	}
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(background))
	eventually(t, "the kubelet finds the daemon again", func() bool {
		_, err := n.kubelet.Exec(background, "lab", p.fullName(), "a", "kill", "1")
		return err == nil
	})
	p.until(t, "it is restarted after the daemon was", func(s *status) bool { return s.of("a").RestartCount == 2 && s.of("a").State.Running != nil })
}

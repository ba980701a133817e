package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPodLivesItsWholeLife(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	s := p.status(t)
	equal(t, "the pod's state", s.State, runtime.PodSandboxState_SANDBOX_READY)
	if !strings.HasPrefix(s.Network.GetIp(), "10.123.") {
		t.Errorf("the pod's address is %q, want one of 10.123.0.0/16", s.Network.GetIp())
	}

	c := p.create(t, "echo hello from $HOSTNAME; echo oops >&2; exec sleep 100000")
	equal(t, "the state before the start", c.status(t).State, runtime.ContainerState_CONTAINER_CREATED)
	n.run(t, "start", c.id)
	equal(t, "the state after it", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
	contains(t, "crictl ps", n.run(t, "ps"), c.id[:12], "Running")
	equal(t, "what exec prints", c.exec(t, "echo in; hostname"), "in\n"+p.config.Hostname)

	eventually(t, "both lines are in the log", func() bool { return len(c.lines(t)) == 2 })
	for _, l := range c.lines(t) {
		equal(t, "the tag of a whole line", l.tag, "F")
		switch l.stream {
		case "stdout":
			equal(t, "stdout", l.text, "hello from "+p.config.Hostname)
		case "stderr":
			equal(t, "stderr", l.text, "oops")
		default:
			t.Errorf("a stream named %q", l.stream)
		}
	}

	n.run(t, "stop", "-t", "0", c.id)
	st := c.status(t)
	equal(t, "the state after a stop", st.State, runtime.ContainerState_CONTAINER_EXITED)
	equal(t, "the exit code of a killed container", st.ExitCode, 137)
	n.run(t, "rm", c.id)
	equal(t, "containers left", n.run(t, "ps", "-a", "-q", "--pod", p.id), "")
	n.run(t, "stopp", p.id)
	equal(t, "the pod's state after a stop", p.status(t).State, runtime.PodSandboxState_SANDBOX_NOTREADY)
	n.run(t, "rmp", p.id)
	equal(t, "pods left", n.run(t, "pods", "-q"), "")
}

func TestStopAndRemoveMayBeRepeated(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	for range 2 {
		n.run(t, "stop", "-t", "0", c.id)
	}
	for range 2 {
		_, err := n.cri.Runtime.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: c.id})
		ok(t, err)
	}
	for range 2 {
		_, err := n.cri.Runtime.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
		ok(t, err)
	}
	for range 2 {
		_, err := n.cri.Runtime.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
		ok(t, err)
	}
	_, err := n.cri.Runtime.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: p.id})
	equal(t, "the code for a removed pod", status.Code(err), codes.NotFound)
	_, err = n.cri.Runtime.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: c.id})
	equal(t, "the code for a removed container", status.Code(err), codes.NotFound)
}

func TestRemovingAPodTakesItsRunningContainersWithIt(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	p.start(t, "exec sleep 100000")
	p.start(t, "trap '' TERM; while :; do sleep 1; done")
	n.run(t, "rmp", "-f", p.id)
	equal(t, "containers left", n.run(t, "ps", "-a", "-q"), "")
}

func TestTwoContainersOfAPodShareItsNetwork(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	p.start(t, "mkdir -p /tmp/www && echo shared > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www")
	other := p.start(t, "exec sleep 100000")
	eventually(t, "one reaches the other on localhost", func() bool {
		out, err := n.crictl.Run(t.Context(), "exec", "-s", other.id, "wget", "-qO-", "http://127.0.0.1:8080/")
		return err == nil && out == "shared"
	})
}

func TestPodsReachEachOther(t *testing.T) {
	n := theNode(t)
	server, client := n.pod(t), n.pod(t)
	server.start(t, "mkdir -p /tmp/www && echo across > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www")
	c := client.start(t, "exec sleep 100000")
	url := "http://" + server.status(t).Network.Ip + "/"
	eventually(t, "a pod reaches another by its address", func() bool {
		out, err := n.crictl.Run(t.Context(), "exec", "-s", c.id, "wget", "-qO-", url)
		return err == nil && out == "across"
	})
}

// The kubelet gives up on a slow RunPodSandbox and asks again with the same
// metadata: that must not make a second pod.
func TestARetriedRunPodSandboxJoinsTheFirst(t *testing.T) {
	n := theNode(t)
	config := n.podConfig(t)
	ids := make([]string, 8)
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config})
			ids[i], errs[i] = r.GetPodSandboxId(), err
		})
	}
	wg.Wait()
	t.Cleanup(func() { n.remove(t, ids[0]) })
	for i := range ids {
		ok(t, errs[i])
		equal(t, "the id a retry gets", ids[i], ids[0])
	}
	equal(t, "the pods there are", n.run(t, "pods", "-q", "--no-trunc"), ids[0])
}

func TestACallerThatGivesUpFindsItsPodLater(t *testing.T) {
	n := theNode(t)
	config := n.podConfig(t)
	short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := n.cri.Runtime.RunPodSandbox(short, &runtime.RunPodSandboxRequest{Config: config})
	if code := status.Code(err); err != nil && code != codes.DeadlineExceeded && code != codes.Canceled {
		t.Fatalf("a caller out of time got %v", err)
	}
	r, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config})
	ok(t, err)
	t.Cleanup(func() { n.remove(t, r.PodSandboxId) })
	equal(t, "the pods there are", n.run(t, "pods", "-q", "--no-trunc"), r.PodSandboxId)
}

func TestLabelsAndAnnotationsComeBackAsGiven(t *testing.T) {
	n := theNode(t)
	labels := map[string]string{"app": "web", "io.kubernetes.pod.name": "x", "empty": ""}
	notes := map[string]string{"note": "line one\nline two", "json": `{"a":[1,2]}`, "ünïcode": "✓"}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) { c.Labels, c.Annotations = labels, notes })
	c := p.create(t, "true", func(c *runtime.ContainerConfig) { c.Labels, c.Annotations = labels, notes })
	same := func(what string, got, want map[string]string) {
		t.Helper()
		a, b := must(json.Marshal(got))(t), must(json.Marshal(want))(t)
		equal(t, what, string(a), string(b))
	}
	same("the pod's labels", p.status(t).Labels, labels)
	same("the pod's annotations", p.status(t).Annotations, notes)
	same("the container's labels", c.status(t).Labels, labels)
	same("the container's annotations", c.status(t).Annotations, notes)
}

func TestListsAreFiltered(t *testing.T) {
	n := theNode(t)
	var pods []*pod
	var containers []*container
	for i := range 3 {
		p := n.pod(t, func(c *runtime.PodSandboxConfig) {
			c.Labels = map[string]string{"number": fmt.Sprint(i), "all": "yes"}
		})
		c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
			c.Labels = map[string]string{"number": fmt.Sprint(i)}
		})
		pods, containers = append(pods, p), append(containers, c)
	}
	n.run(t, "stop", "-t", "0", containers[0].id)
	n.run(t, "stopp", pods[2].id)

	count := func(want int, args ...string) {
		t.Helper()
		got := len(strings.Fields(n.run(t, args...)))
		equal(t, "crictl "+strings.Join(args, " ")+": lines", got, want)
	}
	count(3, "pods", "-q")
	count(3, "pods", "-q", "--label", "all=yes")
	count(1, "pods", "-q", "--label", "all=yes", "--label", "number=1")
	count(0, "pods", "-q", "--label", "number=7")
	count(2, "pods", "-q", "--state", "ready")
	count(1, "pods", "-q", "--state", "notready")
	count(1, "pods", "-q", "--id", pods[1].id[:16])
	count(1, "ps", "-q")
	count(3, "ps", "-q", "-a")
	count(1, "ps", "-q", "-a", "--label", "number=0")
	count(1, "ps", "-q", "-a", "--pod", pods[1].id)
	count(2, "ps", "-q", "--state", "exited")
	count(1, "ps", "-q", "-a", "--id", containers[2].id[:16])
}

func TestPrefixesOfIdsAreUnderstood(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	contains(t, "inspectp by prefix", n.run(t, "inspectp", p.id[:13]), p.id)
	contains(t, "inspect by prefix", n.run(t, "inspect", c.id[:13]), c.id)
	equal(t, "exec by prefix", n.run(t, "exec", "-s", c.id[:13], "echo", "yes"), "yes")
	n.run(t, "stop", "-t", "0", c.id[:13])
	equal(t, "the state after it", c.status(t).State, runtime.ContainerState_CONTAINER_EXITED)
}

func TestAReopenedLogGoesOnInANewFile(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	eventually(t, "something is logged", func() bool { return len(c.lines(t)) > 5 })
	rotate(t, c)
	_, err := n.cri.Runtime.ReopenContainerLog(t.Context(), &runtime.ReopenContainerLogRequest{ContainerId: c.id})
	ok(t, err)
	eventually(t, "something is logged in the new file", func() bool { return len(c.lines(t)) > 5 })
	n.run(t, "stop", "-t", "0", c.id)
	whole := append(rotated(t, c), c.lines(t)...)
	for i, l := range whole {
		if l.text != fmt.Sprint(i+1) {
			t.Fatalf("line %d over both files is %q: something was lost or doubled", i+1, l.text)
		}
	}
}

//go:build kubelet

package kubelet

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// finally checks what can only be known when all tests are over, and says so
// in the words of the testing package: parallel tests have no last one.
func finally(name string, check func() error) bool {
	mark := "" // begins a line that test2json must not take for a test's own words
	if flag.Lookup("test.v").Value.String() == "test2json" {
		mark = "\x16"
	}
	fmt.Printf("%s=== RUN   %s\n", mark, name)
	began := time.Now()
	err := check()
	verdict := "PASS"
	if err != nil {
		verdict = "FAIL"
		fmt.Printf("    finally.go:1: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n        "))
	}
	fmt.Printf("%s--- %s: %s (%.2fs)\n", mark, verdict, name, time.Since(began).Seconds())
	return err == nil
}

// lastChecks are made on each node that tests shared.
func lastChecks(nodes map[string]*node) bool {
	well := true
	for what, n := range nodes {
		if n == nil || n.kubelet == nil {
			continue
		}
		if n != collector.node { // its pod has only just gone
			well = finally("TestTheNodeIsEmptyAtTheEnd/"+what, n.isEmpty) && well
		}
		well = finally("TestTheKubeletHasNoComplaint/"+what, n.hasNoComplaint) && well
	}
	return well
}

// isEmpty waits for the kubelet's collection of what is dead, once a minute,
// and looks that nothing is left of the pods: in the runtime, in cgroups, in
// the network.
func (n *node) isEmpty() error {
	var left []string
	for end := time.Now().Add(80 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		left = nil
		pods, err := n.cri.Runtime.ListPodSandbox(background, &runtime.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			left = append(left, fmt.Sprintf("sandbox %.12s of %s", p.Id, p.Metadata.Name))
		}
		containers, err := n.cri.Runtime.ListContainers(background, &runtime.ListContainersRequest{})
		if err != nil {
			return err
		}
		for _, c := range containers.Containers {
			left = append(left, fmt.Sprintf("container %.12s, %s", c.Id, c.Metadata.Name))
		}
		survey, err := n.daemon.Surveyor().Take()
		if err != nil {
			return err
		}
		for _, kind := range []string{"address", "file"} {
			left = append(left, survey[kind]...)
		}
		for _, cgroup := range survey["cgroup"] {
			if strings.Contains(cgroup, "/pod") && strings.Contains(cgroup, n.kubelet.Cgroup) {
				left = append(left, cgroup)
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, n.lab.Dir) && strings.Contains(line, "/pods/") {
				left = append(left, "mount "+strings.Fields(line)[4])
			}
		}
		if len(left) == 0 {
			return nil
		}
	}
	return fmt.Errorf("all pods have gone, but there is still:\n%s", strings.Join(left[:min(len(left), 20)], "\n"))
}

// runtimeErrors are the lines of the kubelet's log that are about the runtime.
var runtimeErrors = regexp.MustCompile(`^E.* (remote_runtime|remote_image|kuberuntime_\w+|image_manager|log|instrumented_services|eviction_manager|cri_stats_provider\w*|generic|evented|pod_container_deletor|kubelet)\.go:\d+\]`)

// expected are the complaints that tests cause on purpose, or that are not the
// runtime's fault, each with the reason.
var expected = []struct{ pattern, reason string }{
	{`("ContainerStatus from runtime service failed"|"Failed to remove container").*code = NotFound`, "the kubelet asks for containers that it has just removed itself (pod_container_deletor)"},
	{`Version from runtime service failed.*context canceled`, "the kubelet asks with a context that it has cancelled itself"},
	{`acommandthatdoesnotexist|exitcodesandreasons|afailedstart|/no/such/program|exec: \\*"/v/program`, "tests of commands that do not exist"},
	{`code = (NotFound|Unknown) desc = (pull image|RegistryUnavailable)|Failed to pull image|lab/nowhere|lab/private|127\.0\.0\.1:1/`, "tests of images that do not exist"},
	{`ExecSync cmd from runtime service failed.*DeadlineExceeded|ExecSync cmd timed out|timed out after 1s`, "a test of a probe that hangs"},
	{`ExecSync cmd from runtime service failed.*(is (exited|stopping), not running|ended before the command could start)`, "a probe of a container that has just ended"},
	{`PostStartHook|apoststarthookthatfails`, "a test of a hook that fails"},
	{`CheckpointContainer.*criu (cannot capture it here|is not installed on this node)`, "a test of checkpoints where CRIU does not work"},
	{`no-such-handler`, "a test of a runtime class whose handler does not exist"},
	{`Skipping pod synchronization.*(may not have completed yet|yet to be successful)`, "the kubelet has just started"},
	{`failed to check if we have separate container filesystem`, "asked once before the first stats are there"},
	{`Housekeeping took longer than expected`, "the machine is loaded"},
	{`Stats initialization may not have completed yet`, "images are collected once before cAdvisor has looked at the disks"},
	{`Image garbage collection failed.*Insufficient free disk space`, "the threshold of a test is below what images in use take"},
	{`node is not registered yet|failed to get node info`, "the kubelet has just started, and the API server does not know it"},
	{`runAsNonRoot|runasnonroot`, "a test of an image that runs as root where that is forbidden"},
	{`never:1`, "a test of an image that may not be pulled"},
	{`aresizebelowwhatisused`, "a test of a memory limit that is too low"},
	{`CrashLoopBackOff`, "tests of containers that fail"},
}

func (n *node) hasNoComplaint() error {
	text, err := os.ReadFile(n.kubelet.LogFile)
	if err != nil {
		return err
	}
	var bad []string
lines:
	for line := range strings.Lines(string(text)) {
		if !runtimeErrors.MatchString(line) {
			continue
		}
		for _, e := range expected {
			if regexp.MustCompile(e.pattern).MatchString(line) {
				continue lines
			}
		}
		bad = append(bad, strings.TrimSpace(line))
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%d lines of the kubelet's log complain of the runtime:\n%s", len(bad), strings.Join(bad[:min(len(bad), 12)], "\n"))
}

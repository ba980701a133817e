//go:build kubelet

package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLimitsReachTheCgroup(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- name: limited
  image: IMAGE
  resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 250m, memory: 64Mi}}
- {name: free, image: IMAGE}
`)
	s := p.ready(t)
	equal(t, "the QoS class", s.QOSClass, "Burstable")
	equal(t, "the memory limit", p.knob(t, "limited", "memory.limit_in_bytes", "memory.max"), "67108864")
	equal(t, "the CPU limit in milli-CPUs", p.cpu(t, "limited"), 250)
	if shares := p.knob(t, "limited", "cpu.shares", "cpu.weight"); shares != "102" && shares == "100" {
		t.Errorf("100m are 102 shares, the cgroup has %s", shares)
	}
	equal(t, "the other's CPU limit", p.cpu(t, "free"), 0)
	equal(t, "the memory limit in the pod's status", s.of("limited").Resources.Limits["memory"], "64Mi")
	equal(t, "the CPU limit in the pod's status", s.of("limited").Resources.Limits["cpu"], "250m")

	// The pod's own cgroup is the kubelet's, and the container is in it.
	dir, _ := p.cgroup(t, "limited", "memory")
	contains(t, "the cgroup", dir, p.kubelet.Cgroup+"/kubepods/burstable/pod"+p.uid+"/")
	pids, _ := p.cgroup(t, "limited", "pids")
	text, err := os.ReadFile(filepath.Join(filepath.Dir(pids), "pids.max"))
	ok(t, err)
	equal(t, "podPidsLimit in the pod's cgroup", strings.TrimSpace(string(text)), "512")
}

func TestAForkBombStopsAtThePodsPidsLimit(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
containers: [{name: bomb, image: IMAGE, command: [sh, -c, "i=0; while [ $i -lt 700 ]; do sleep 60 & i=$((i+1)); done 2>&1; echo all"]}]
`)
	s := p.until(t, "the bomb fails", func(s *status) bool { return s.of("bomb").ended() != nil })
	if s.of("bomb").ended().ExitCode == 0 || !strings.Contains(p.log(t, "bomb", ""), "fork") {
		t.Errorf("700 processes could be started in a pod that may have 512: %+v, %q", s.of("bomb").ended(), p.log(t, "bomb", ""))
	}
}

func TestTooMuchMemoryIsOOMKilled(t *testing.T) {
	n := theNode(t)
	for name, command := range map[string]string{
		"init process": `[workload, memory, "200"]`,
		// On v2 the kubelet asks for the whole cgroup to be killed; on v1 the kernel takes
		// the greatest process, and the shell says how its child ended.
		"child": `[sh, -c, "workload memory 200; exit $?"]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.pod(t, `
restartPolicy: Never
containers: [{name: a, image: IMAGE, command: `+command+`, resources: {limits: {memory: 48Mi}}}]
`)
			s := p.until(t, "the container ends", func(s *status) bool { return s.of("a").ended() != nil })
			end := s.of("a").ended()
			equal(t, "the reason", end.Reason, "OOMKilled")
			equal(t, "the exit code", end.ExitCode, 137)
		})
	}
}

func TestAnOOMKilledContainerIsRestarted(t *testing.T) {
	p := theNode(t).pod(t, `
containers: [{name: a, image: IMAGE, command: [workload, memory, "200"], resources: {limits: {memory: 48Mi}}}]
`)
	s := p.until(t, "it has been restarted", func(s *status) bool {
		return s.of("a").RestartCount > 0 && s.of("a").LastState.Terminated != nil
	})
	equal(t, "the reason", s.of("a").LastState.Terminated.Reason, "OOMKilled")
}

const resized = `
containers:
- name: a
  image: IMAGE
  resources: {requests: {cpu: CPU, memory: MEMORY}, limits: {cpu: CPU, memory: MEMORY}}
  resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: POLICY}]
`

func resize(cpu, memory, policy string) string {
	return strings.NewReplacer("CPU", cpu, "MEMORY", memory, "POLICY", policy).Replace(resized)
}

// A static pod with a uid of its own that changes is updated, not replaced,
// and the kubelet resizes it in place.
func TestAPodIsResizedInPlace(t *testing.T) {
	p := theNode(t).pod(t, resize("100m", "64Mi", "NotRequired"))
	before := p.ready(t).of("a")
	for _, c := range []struct {
		cpu, memory string
		milli       int
		bytes       string
	}{{"300m", "128Mi", 300, "134217728"}, {"150m", "96Mi", 150, "100663296"}} {
		p.write(t, "", resize(c.cpu, c.memory, "NotRequired"))
		s := p.until(t, "the status says "+c.cpu+" and "+c.memory, func(s *status) bool {
			r := s.of("a").Resources
			return r != nil && r.Limits["cpu"] == c.cpu && r.Limits["memory"] == c.memory
		})
		equal(t, "the CPU limit in the cgroup", p.cpu(t, "a"), c.milli)
		equal(t, "the memory limit in the cgroup", p.knob(t, "a", "memory.limit_in_bytes", "memory.max"), c.bytes)
		equal(t, "the container", s.of("a").ContainerID, before.ContainerID)
		equal(t, "restarts", s.of("a").RestartCount, 0)
	}
}

func TestAResizeThatNeedsARestartRestarts(t *testing.T) {
	p := theNode(t).pod(t, resize("100m", "64Mi", "RestartContainer"))
	p.ready(t)
	p.write(t, "", resize("100m", "128Mi", "RestartContainer"))
	s := p.until(t, "the container is restarted with the new limit", func(s *status) bool {
		r := s.of("a").Resources
		return s.of("a").RestartCount == 1 && s.of("a").State.Running != nil && r != nil && r.Limits["memory"] == "128Mi"
	})
	equal(t, "the memory limit in the cgroup", p.knob(t, "a", "memory.limit_in_bytes", "memory.max"), "134217728")
	equal(t, "phase", s.Phase, "Running")
}

// A memory limit below what the container uses must not be set: the kubelet
// says that the resize is not done, and the container lives on.
func TestAResizeBelowWhatIsUsedIsNotDone(t *testing.T) {
	spec := func(limit string) string {
		return `
containers:
- name: a
  image: IMAGE
  command: [workload, memory, "60"]
  resources: {requests: {memory: 20Mi}, limits: {memory: ` + limit + `}}
`
	}
	p := theNode(t).pod(t, spec("200Mi"))
	p.ready(t)
	eventually(t, "the memory is in use", func() bool { return strings.Contains(p.log(t, "a", ""), "have 60 MiB") })
	p.write(t, "", spec("40Mi"))
	s := p.until(t, "the kubelet says the resize is in progress with an error", func(s *status) bool {
		for _, c := range s.Conditions {
			if c.Type == "PodResizeInProgress" && c.Reason == "Error" {
				return true
			}
		}
		return false
	})
	equal(t, "the memory limit in the cgroup", p.knob(t, "a", "memory.limit_in_bytes", "memory.max"), "209715200")
	equal(t, "restarts", s.of("a").RestartCount, 0)
}

// KEP-2837: limits of the pod as a whole are its cgroup's, and are resized.
func TestLimitsOfThePodAsAWhole(t *testing.T) {
	spec := func(memory string) string {
		return "resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 400m, memory: " + memory + "}}\ncontainers: [{name: a, image: IMAGE}, {name: b, image: IMAGE}]"
	}
	p := theNode(t).pod(t, spec("96Mi"))
	before := p.ready(t)
	limit := func() string {
		dir, unified := p.cgroup(t, "a", "memory")
		file := "memory.limit_in_bytes"
		if unified {
			file = "memory.max"
		}
		return words(t, filepath.Join(filepath.Dir(dir), file))
	}
	equal(t, "the limit in the pod's cgroup", limit(), "100663296")
	p.write(t, "", spec("128Mi"))
	eventually(t, "the pod is resized", func() bool { return limit() == "134217728" })
	equal(t, "the container", p.status(t).of("a").ContainerID, before.of("a").ContainerID)
}

//go:build kubelet

package kubelet

import (
	"testing"
)

func TestInitContainersRunInOrderToTheirEnd(t *testing.T) {
	p := theNode(t).pod(t, `
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- {name: first, image: IMAGE, command: [sh, -c, "sleep 1; echo first >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
- {name: second, image: IMAGE, command: [sh, -c, "echo second >> /shared/order"], volumeMounts: [{name: shared, mountPath: /shared}]}
containers:
- {name: main, image: IMAGE, command: [sh, -c, "echo main >> /shared/order; exec sleep 100000"], volumeMounts: [{name: shared, mountPath: /shared}]}
`)
	s := p.ready(t)
	equal(t, "the order", p.exec(t, "main", "xargs < /shared/order"), "first second main")
	for _, name := range []string{"first", "second"} {
		end := s.of(name).State.Terminated
		if end == nil || end.ExitCode != 0 || end.Reason != "Completed" {
			t.Errorf("init container %s has not completed: %+v", name, s.of(name))
		}
	}
}

func TestAnInitContainerThatFailsIsTriedAgainBeforeTheOthers(t *testing.T) {
	p := theNode(t).pod(t, `
volumes: [{name: shared, emptyDir: {}}]
initContainers:
- {name: flaky, image: IMAGE, command: [sh, -c, "echo try >> /shared/tries; test $(wc -l < /shared/tries) -ge 2 || exit 9"], volumeMounts: [{name: shared, mountPath: /shared}]}
containers:
- {name: main, image: IMAGE, command: [sh, -c, "cat /shared/tries; exec sleep 100000"], volumeMounts: [{name: shared, mountPath: /shared}]}
`)
	s := p.ready(t)
	equal(t, "restarts of the init container", s.of("flaky").RestartCount, 1)
	equal(t, "what main found", p.log(t, "main", ""), "try\ntry")
}

func TestAPodThatNeverRestartsFailsWithItsInitContainer(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
initContainers: [{name: broken, image: IMAGE, command: [sh, -c, "exit 9"]}]
containers: [{name: main, image: IMAGE}]
`)
	s := p.until(t, "the pod has failed", func(s *status) bool { return s.Phase == "Failed" })
	end := s.of("broken").ended()
	if end == nil || end.ExitCode != 9 || end.Reason != "Error" {
		t.Errorf("the init container's end: %+v", end)
	}
	equal(t, "containers that were made for main", len(p.containers(t, "main")), 0)
}

// A sidecar (KEP-753) is an init container that goes on: it is started before
// the others, restarted when it ends, and stopped after them.
func TestASidecarRunsBeforeAndAfterTheOthers(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("sidecar")
	ok(t, err)
	p := n.pod(t, `
terminationGracePeriodSeconds: 10
volumes: [{name: out, hostPath: {path: `+dir+`}}]
initContainers:
- name: sidecar
  image: IMAGE
  restartPolicy: Always
  command: [sh, -c, "echo sidecar-up >> /out/order; trap 'echo sidecar-down >> /out/order; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"]
  startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}
  volumeMounts: [{name: out, mountPath: /out}]
- name: init
  image: IMAGE
  command: [sh, -c, "echo init >> /out/order"]
  volumeMounts: [{name: out, mountPath: /out}]
containers:
- name: main
  image: IMAGE
  command: [sh, -c, "echo main-up >> /out/order; trap 'sleep 1; echo main-down >> /out/order; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"]
  readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}
  volumeMounts: [{name: out, mountPath: /out}]
`)
	s := p.ready(t)
	if s.of("sidecar").State.Running == nil {
		t.Errorf("the sidecar does not run: %+v", s.of("sidecar"))
	}
	p.remove(t)
	equal(t, "the order", words(t, dir+"/order"), "sidecar-up init main-up main-down sidecar-down")
}

func TestASidecarIsRestartedAlone(t *testing.T) {
	p := theNode(t).pod(t, `
initContainers:
- {name: sidecar, image: IMAGE, restartPolicy: Always, command: [sh, -c, "trap 'exit 3' TERM; touch /tmp/up; while :; do sleep 0.1; done"], startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}
containers:
- {name: main, image: IMAGE}
`)
	main := p.ready(t).of("main").ContainerID
	p.exec(t, "sidecar", "kill 1")
	s := p.until(t, "the sidecar is restarted", func(s *status) bool {
		return s.of("sidecar").RestartCount == 1 && s.of("sidecar").State.Running != nil
	})
	equal(t, "how it ended", s.of("sidecar").LastState.Terminated.ExitCode, 3)
	equal(t, "the main container", s.of("main").ContainerID, main)
}

func TestAJobEndsAlthoughItsSidecarGoesOn(t *testing.T) {
	p := theNode(t).pod(t, `
restartPolicy: Never
initContainers: [{name: sidecar, image: IMAGE, restartPolicy: Always}]
containers: [{name: work, image: IMAGE, command: [sh, -c, "echo done"]}]
`)
	s := p.until(t, "the pod has succeeded", func(s *status) bool { return s.Phase == "Succeeded" })
	equal(t, "the work's end", s.of("work").State.Terminated.Reason, "Completed")
	if s.of("sidecar").State.Running != nil {
		t.Error("the sidecar still runs")
	}
}

//go:build kubelet

package kubelet

import (
	"syscall"
	"testing"
	"time"
)

func TestAContainerThatFailsIsRestartedWithBackOff(t *testing.T) {
	p := theNode(t).pod(t, `
containers: [{name: a, image: IMAGE, command: [sh, -c, "echo attempt; exit 3"]}]
`)
	s := p.until(t, "it waits in CrashLoopBackOff", func(s *status) bool { return s.of("a").waits("CrashLoopBackOff") })
	end := s.of("a").LastState.Terminated
	if end == nil || end.ExitCode != 3 || end.Reason != "Error" || end.FinishedAt.Before(end.StartedAt) {
		t.Errorf("the last state: %+v", end)
	}
	contains(t, "why it waits", s.of("a").State.Waiting.Message, "back-off")
	p.until(t, "it is restarted again and again", func(s *status) bool { return s.of("a").RestartCount >= 3 })
	eventually(t, "the kubelet has the log of the one before", func() bool { // now and then that one is just being removed
		out, err := p.kubelet.Get(background, "/containerLogs/lab/"+p.fullName()+"/a?previous=true")
		return err == nil && out == "attempt\n"
	})
	eventually(t, "of the dead ones the last two remain at most", func() bool { return len(p.containers(t, "a")) <= 2 })
}

func TestExitCodesAndReasonsReachThePodStatus(t *testing.T) {
	n := theNode(t)
	for name, c := range map[string]struct {
		policy, command string
		phase, reason   string
		code            int
	}{
		"success under Never":           {"Never", `[sh, -c, "exit 0"]`, "Succeeded", "Completed", 0},
		"failure under Never":           {"Never", `[sh, -c, "exit 17"]`, "Failed", "Error", 17},
		"success under OnFailure":       {"OnFailure", `[sh, -c, "exit 0"]`, "Succeeded", "Completed", 0},
		"a command that does not exist": {"Never", `[/no/such/program]`, "Failed", "StartError", 128},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.pod(t, "restartPolicy: "+c.policy+"\ncontainers: [{name: a, image: IMAGE, command: "+c.command+"}]")
			s := p.until(t, "the pod ends", func(s *status) bool { return s.Phase == c.phase && s.of("a").ended() != nil })
			end := s.of("a").ended()
			equal(t, "the reason", end.Reason, c.reason)
			equal(t, "the exit code", end.ExitCode, c.code)
			if end.FinishedAt.IsZero() || time.Since(end.FinishedAt) > 10*time.Minute {
				t.Errorf("it finished at %v", end.FinishedAt)
			}
		})
	}
}

func TestAContainerKilledFromOutsideSaysSo(t *testing.T) {
	p := theNode(t).pod(t, "restartPolicy: Never\ncontainers: [{name: a, image: IMAGE}]")
	p.ready(t)
	ok(t, syscall.Kill(p.pid(t, "a"), syscall.SIGKILL))
	s := p.until(t, "the pod has failed", func(s *status) bool { return s.Phase == "Failed" && s.of("a").ended() != nil })
	equal(t, "the exit code", s.of("a").ended().ExitCode, 137)
	equal(t, "the reason", s.of("a").ended().Reason, "Error")
}

func TestACommandThatDoesNotExistIsNamedInTheStatus(t *testing.T) {
	p := theNode(t).pod(t, `containers: [{name: a, image: IMAGE, command: [/no/such/program]}]`)
	s := p.until(t, "the container cannot be started", func(s *status) bool {
		return s.of("a").waits("RunContainerError") || s.of("a").waits("CrashLoopBackOff")
	})
	message := ""
	if s.of("a").ended() != nil {
		message = s.of("a").ended().Message
	}
	contains(t, "what the operator reads", message+s.of("a").State.Waiting.Message, "/no/such/program")
}

func TestAFailedStartIsTriedAgainUntilItWorks(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("late")
	ok(t, err)
	p := n.pod(t, `
volumes: [{name: v, hostPath: {path: `+dir+`, type: Directory}}]
containers: [{name: a, image: IMAGE, command: [/v/program], volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p.until(t, "the program is missing", func(s *status) bool { return s.of("a").State.Waiting != nil && s.of("a").RestartCount > 0 })
	ok(t, writeProgram(dir+"/program", "#!/bin/sh\nexec sleep 100000\n"))
	p.ready(t)
}

// KEP-5532: one exit code begins the whole pod anew, in the same sandbox.
func TestOneExitCodeRestartsAllContainers(t *testing.T) {
	p := theNode(t).pod(t, `
volumes: [{name: v, emptyDir: {}}]
initContainers: [{name: i, image: IMAGE, command: [sh, -c, "echo init >> /v/log"], volumeMounts: [{name: v, mountPath: /v}]}]
containers:
- {name: other, image: IMAGE}
- name: a
  image: IMAGE
  command: [sh, -c, "while [ $(wc -l < /v/log) -lt 2 ]; do sleep 1; exit 88; done; exec sleep 100000"]
  volumeMounts: [{name: v, mountPath: /v}]
  restartPolicy: Always
  restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]
`)
	p.until(t, "all began anew", func(s *status) bool {
		return s.is("Ready") && s.of("other").RestartCount == 1 && s.of("i").RestartCount == 1
	})
	equal(t, "sandboxes", len(p.sandboxes(t)), 1)
}

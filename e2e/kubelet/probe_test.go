//go:build kubelet

package kubelet

import (
	"strings"
	"testing"
)

// probes are the four kinds, each against a container that is well as long as
// there is no file /tmp/sick in it.
var probes = map[string]struct{ serve, probe string }{
	"exec":      {"exec sleep 100000", `exec: {command: [sh, -c, "test ! -e /tmp/sick"]}`},
	"httpGet":   {"cd /tmp; while :; do httpd -f -p 8080 -h /tmp & p=$!; while [ ! -e sick ]; do sleep 0.1; done; kill $p; while [ -e sick ]; do sleep 0.1; done; done", `httpGet: {path: /well, port: 8080, httpHeaders: [{name: X-Probe, value: "yes"}]}`},
	"tcpSocket": {"cd /tmp; while :; do httpd -f -p 8080 -h /tmp & p=$!; while [ ! -e sick ]; do sleep 0.1; done; kill $p; while [ -e sick ]; do sleep 0.1; done; done", `tcpSocket: {port: 8080}`},
	"grpc":      {"exec workload grpc-health 8080", `grpc: {port: 8080}`},
}

// eachProbe runs a test for each kind of probe, with a pod of one container
// that has this kind of probe in three roles.
func eachProbe(t *testing.T, role string, test func(t *testing.T, p *static)) {
	n := theNode(t)
	for kind, of := range probes {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, n.pod(t, `
containers:
- name: a
  image: IMAGE
  command: [sh, -c, "touch /tmp/well; trap 'exit 42' TERM; { `+strings.TrimPrefix(of.serve, "exec ")+`; } & wait"]
  `+role+`: {`+of.probe+`, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 2}
`))
		})
	}
}

func TestAReadinessProbeFollowsTheContainer(t *testing.T) {
	eachProbe(t, "readinessProbe", func(t *testing.T, p *static) {
		p.ready(t)
		p.exec(t, "a", "touch /tmp/sick")
		p.until(t, "a sick container is not ready", func(s *status) bool { return !s.is("Ready") && !s.of("a").Ready })
		p.exec(t, "a", "rm /tmp/sick")
		s := p.ready(t)
		equal(t, "restarts, which readiness does not cause", s.of("a").RestartCount, 0)
	})
}

func TestALivenessProbeRestartsTheContainer(t *testing.T) {
	eachProbe(t, "livenessProbe", func(t *testing.T, p *static) {
		p.ready(t)
		p.exec(t, "a", "touch /tmp/sick") // in the layer of this container: the next is well
		s := p.until(t, "the sick container is restarted", func(s *status) bool {
			return s.of("a").RestartCount == 1 && s.of("a").State.Running != nil
		})
		end := s.of("a").LastState.Terminated
		if end == nil || end.ExitCode != 42 || end.Reason != "Error" {
			t.Errorf("it was asked to end and its trap says 42, but its last state is %+v", end)
		}
	})
}

func TestAStartupProbeHoldsTheOthersBack(t *testing.T) {
	eachProbe(t, "livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1000}\n  startupProbe", func(t *testing.T, p *static) {
		s := p.until(t, "the container is started", func(s *status) bool {
			c := s.of("a")
			return c.Started != nil && *c.Started && c.Ready
		})
		equal(t, "restarts", s.of("a").RestartCount, 0)
	})
}

func TestAContainerThatNeverStartsUpIsRestarted(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- name: a
  image: IMAGE
  startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, failureThreshold: 3}
  readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`)
	s := p.until(t, "it is restarted", func(s *status) bool { return s.of("a").RestartCount > 0 })
	if s.is("Ready") || s.of("a").Ready {
		t.Error("a container whose startup probe has not succeeded is ready")
	}
	equal(t, "the exit code of a container that was killed", s.of("a").ended().ExitCode, 137)
}

func TestAnExecProbeThatHangsIsAFailure(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- name: a
  image: IMAGE
  readinessProbe: {exec: {command: [sh, -c, "test -e /tmp/fast || exec sleep 345678"]}, periodSeconds: 1, timeoutSeconds: 1}
`)
	p.until(t, "the container runs", func(s *status) bool { return s.of("a").State.Running != nil })
	eventually(t, "the kubelet notes that the probe timed out", func() bool {
		return strings.Contains(p.kubelet.Grep("Probe failed"), p.fullName())
	})
	if p.status(t).is("Ready") {
		t.Error("a probe that hangs made the container ready")
	}
	p.exec(t, "a", "touch /tmp/fast")
	p.ready(t)
	// The probes that were cut off are dead, not only forgotten.
	eventually(t, "the probes that timed out are gone", func() bool {
		return !strings.Contains(p.exec(t, "a", "ps"), "345678")
	})
}

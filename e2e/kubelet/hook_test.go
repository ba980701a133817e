//go:build kubelet

package kubelet

import (
	"os"
	"strings"
	"testing"
	"time"
)

// words is a file of the node as one line.
func words(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	ok(t, err)
	return strings.Join(strings.Fields(string(text)), " ")
}

func writeProgram(path, text string) error { return os.WriteFile(path, []byte(text), 0o755) }

func TestLifecycleHooks(t *testing.T) {
	n := theNode(t)
	web := "cd /tmp; mkdir -p cgi-bin; printf '#!/bin/sh\\necho hook-http >> /out/order; printf \"Content-Type: text/plain\\\\n\\\\nok\\\\n\"\\n' > cgi-bin/hook; chmod +x cgi-bin/hook; httpd -p 8080 -h /tmp; "
	for name, c := range map[string]struct{ start, stop, want string }{
		"exec":    {`exec: {command: [sh, -c, "echo post-start >> /out/order"]}`, `exec: {command: [sh, -c, "echo pre-stop >> /out/order"]}`, "post-start pre-stop term"},
		"httpGet": {`exec: {command: ["true"]}`, `httpGet: {path: /cgi-bin/hook, port: 8080}`, "hook-http term"},
		"sleep":   {`sleep: {seconds: 1}`, `sleep: {seconds: 1}`, "term"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := n.lab.Mkdir("hooks", name)
			ok(t, err)
			p := n.pod(t, `
terminationGracePeriodSeconds: 20
volumes: [{name: out, hostPath: {path: `+dir+`}}]
containers:
- name: a
  image: IMAGE
  command: [sh, -c, `+quote("trap 'echo term >> /out/order; exit 0' TERM; "+web+"while :; do sleep 0.1; done")+`]
  lifecycle:
    postStart: {`+c.start+`}
    preStop: {`+c.stop+`}
  readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
  volumeMounts: [{name: out, mountPath: /out}]
`)
			p.ready(t)
			began := time.Now()
			p.remove(t)
			equal(t, "what happened, in order", words(t, dir+"/order"), c.want)
			if name == "sleep" && time.Since(began) < time.Second {
				t.Error("the pod ended before its preStop sleep was over")
			}
		})
	}
}

func TestAPostStartHookThatFailsKillsTheContainer(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- name: a
  image: IMAGE
  lifecycle: {postStart: {exec: {command: [sh, -c, "echo sorry; exit 5"]}}}
`)
	p.until(t, "the container is killed and tried again", func(s *status) bool {
		return s.of("a").RestartCount > 0 && s.of("a").ended() != nil && s.of("a").ended().ExitCode == 137
	})
}

// quote makes a JSON string, which YAML reads as it is.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func TestAPodEndsGracefully(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("graceful")
	ok(t, err)
	p := n.pod(t, `
terminationGracePeriodSeconds: 30
volumes: [{name: out, hostPath: {path: `+dir+`}}]
containers:
- name: polite
  image: IMAGE
  command: [sh, -c, "trap 'sleep 2; echo saved > /out/state; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"]
  readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}
  volumeMounts: [{name: out, mountPath: /out}]
`)
	p.ready(t)
	p.remove(t)
	equal(t, "what the container saved when it was told to end", words(t, dir+"/state"), "saved")
}

func TestAPodThatDoesNotEndIsKilledAfterItsGracePeriod(t *testing.T) {
	p := theNode(t).pod(t, `
terminationGracePeriodSeconds: 3
containers: [{name: deaf, image: IMAGE, command: [sh, -c, "trap '' TERM; touch /tmp/up; while :; do sleep 0.1; done"], readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}}]
`)
	p.ready(t)
	began := time.Now()
	p.remove(t)
	if took := time.Since(began); took < 3*time.Second || took > 40*time.Second {
		t.Errorf("the pod took %v to end; its grace period is 3 s", took)
	}
}

// KEP-4960: the pod's own stop signal goes before the image's.
func TestAPodChoosesItsStopSignal(t *testing.T) {
	n := theNode(t)
	dir, err := n.lab.Mkdir("stop-signal")
	ok(t, err)
	p := n.pod(t, `
os: {name: linux}
terminationGracePeriodSeconds: 20
volumes: [{name: out, hostPath: {path: `+dir+`}}]
containers:
- name: a
  image: IMAGE
  lifecycle: {stopSignal: SIGUSR1}
  command: [sh, -c, "trap 'echo usr1 > /out/got; exit 0' USR1; trap 'echo term > /out/got; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"]
  readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}
  volumeMounts: [{name: out, mountPath: /out}]
`)
	equal(t, "the signal in the pod's status", p.ready(t).of("a").StopSignal, "SIGUSR1")
	p.remove(t)
	equal(t, "the signal that came", words(t, dir+"/got"), "usr1")
}

//go:build kubelet

package kubelet

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

func scan(text string, into ...any) bool {
	n, err := fmt.Sscan(text, into...)
	return err == nil && n == len(into)
}

func TestHostNetworkAndHostPID(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, `
hostNetwork: true
hostPID: true
hostIPC: true
containers: [{name: a, image: IMAGE}]
`)
	p.ready(t)
	equal(t, "the node's link", p.exec(t, "a", "ls /sys/class/net/machine/address"), "/sys/class/net/machine/address")
	contains(t, "the node's processes", p.exec(t, "a", "ps"), "kubelet")
	ipc, err := os.Readlink("/proc/self/ns/ipc")
	ok(t, err)
	equal(t, "the IPC namespace", p.exec(t, "a", "readlink /proc/self/ns/ipc"), ipc)
}

func TestASharedProcessNamespace(t *testing.T) {
	p := theNode(t).pod(t, `
shareProcessNamespace: true
containers:
- {name: a, image: IMAGE, command: [sleep, "111111"]}
- {name: b, image: IMAGE, command: [sleep, "222222"]}
`)
	p.ready(t)
	contains(t, "what b sees", p.exec(t, "b", "ps"), "sleep 111111")
	p.exec(t, "b", "kill -9 $(ps | grep 11111[1] | awk '{print$1}')")
	s := p.until(t, "the neighbour that was killed is restarted", func(s *status) bool {
		return s.of("a").RestartCount == 1 && s.of("a").State.Running != nil
	})
	equal(t, "its exit code", s.of("a").LastState.Terminated.ExitCode, 137)
	equal(t, "restarts of the other", s.of("b").RestartCount, 0)
}

func TestHostPorts(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- name: a
  image: IMAGE
  command: [sh, -c, "echo from-the-pod > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
  ports: [{containerPort: 8080, hostPort: 18080}]
  readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`)
	p.ready(t)
	resp, err := http.Get("http://" + nodeIP + ":18080/")
	ok(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ok(t, err)
	equal(t, "what the host port answers", strings.TrimSpace(string(text)), "from-the-pod")
	p.remove(t)
	if resp, err := http.Get("http://" + nodeIP + ":18080/"); err == nil {
		resp.Body.Close()
		t.Error("the host port answers although its pod has gone")
	}
}

func TestDNSAndHosts(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, `
hostname: given
subdomain: sub
hostAliases: [{ip: 192.0.2.99, hostnames: [alias.example]}]
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.1], searches: [one.example, two.example], options: [{name: ndots, value: "3"}, {name: edns0}]}
containers: [{name: a, image: IMAGE}]
`)
	p.ready(t)
	equal(t, "the hostname", p.exec(t, "a", "hostname"), "given")
	for _, want := range []string{"search one.example two.example", "nameserver 192.0.2.1", "ndots:3", "edns0"} {
		contains(t, "resolv.conf", p.exec(t, "a", "cat /etc/resolv.conf"), want)
	}
	contains(t, "hosts", p.exec(t, "a", "cat /etc/hosts"), "192.0.2.99\talias.example")

	q := n.pod(t, "dnsPolicy: Default\ncontainers: [{name: a, image: IMAGE}]")
	q.ready(t)
	contains(t, "the node's resolv.conf", q.exec(t, "a", "cat /etc/resolv.conf"), "nameserver 192.0.2.53")
}

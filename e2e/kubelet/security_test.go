//go:build kubelet

package kubelet

import (
	"strings"
	"testing"
)

// process is a line of /proc/1/status in a container.
func (p *static) process(t *testing.T, container, field string) string {
	t.Helper()
	for line := range strings.Lines(p.exec(t, container, "cat /proc/1/status")) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("/proc/1/status has no %s", field)
	return ""
}

func TestUsersAndGroups(t *testing.T) {
	p := theNode(t).pod(t, `
securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000]}
volumes: [{name: v, emptyDir: {}}]
containers:
- {name: pod-user, image: IMAGE, volumeMounts: [{name: v, mountPath: /v}]}
- {name: own-user, image: IMAGE, securityContext: {runAsUser: 1234, runAsGroup: 10}}
`)
	s := p.ready(t)
	equal(t, "user", p.exec(t, "pod-user", "id -u"), "1000")
	equal(t, "groups", p.exec(t, "pod-user", "id -G"), "3000 2000 4000")
	equal(t, "another user", p.exec(t, "own-user", "id -un; id -g"), "worker\n10")
	equal(t, "the volume's group", p.exec(t, "pod-user", "touch /v/x; stat -c %g /v /v/x | xargs"), "2000 2000")
	if u := s.of("pod-user").User; u == nil || u.Linux.UID != 1000 || u.Linux.GID != 3000 || len(u.Linux.SupplementalGroups) < 2 {
		t.Errorf("the user in the pod's status: %+v", u)
	}
}

func TestRunAsNonRootRefusesRoot(t *testing.T) {
	p := theNode(t).pod(t, "securityContext: {runAsNonRoot: true}\ncontainers: [{name: a, image: IMAGE}]")
	s := p.until(t, "it is refused", func(s *status) bool { return s.of("a").waits("CreateContainerConfigError") })
	contains(t, "why", s.of("a").State.Waiting.Message, "root")
}

func TestSecurityContexts(t *testing.T) {
	p := theNode(t).pod(t, `
containers:
- {name: readonly, image: IMAGE, securityContext: {readOnlyRootFilesystem: true}}
- {name: seccomp, image: IMAGE, securityContext: {seccompProfile: {type: RuntimeDefault}}}
- {name: unconfined, image: IMAGE, securityContext: {seccompProfile: {type: Unconfined}}}
- {name: nonew, image: IMAGE, securityContext: {allowPrivilegeEscalation: false}}
- {name: bare, image: IMAGE, securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}}
- {name: more, image: IMAGE, securityContext: {capabilities: {add: [NET_ADMIN]}}}
- {name: privileged, image: IMAGE, securityContext: {privileged: true}}
- {name: usual, image: IMAGE}
`)
	p.ready(t)
	equal(t, "writing to a read-only root", p.exec(t, "readonly", "touch /x 2>/dev/null || echo refused"), "refused")
	equal(t, "writing to /dev/shm then", p.exec(t, "readonly", "touch /dev/shm/x && echo works"), "works")
	equal(t, "seccomp RuntimeDefault is a filter", p.process(t, "seccomp", "Seccomp"), "2")
	equal(t, "a call that the filter refuses", p.exec(t, "seccomp", "unshare -U true 2>/dev/null || echo refused"), "refused")
	equal(t, "seccomp Unconfined is none", p.process(t, "unconfined", "Seccomp"), "0")
	equal(t, "no_new_privs", p.process(t, "nonew", "NoNewPrivs"), "1")
	equal(t, "no_new_privs by default", p.process(t, "usual", "NoNewPrivs"), "0")
	equal(t, "all capabilities but one dropped", p.process(t, "bare", "CapEff"), "0000000000000400")
	equal(t, "a link with NET_ADMIN", p.exec(t, "more", "ip link add type bridge && echo works"), "works")
	equal(t, "a link without", p.exec(t, "usual", "ip link add type bridge 2>/dev/null || echo refused"), "refused")
	equal(t, "capabilities of a privileged container", p.process(t, "privileged", "CapEff"), p.process(t, "privileged", "CapBnd"))
	equal(t, "devices of a privileged container", p.exec(t, "privileged", "ls /dev/kmsg"), "/dev/kmsg")
	equal(t, "devices of a usual one", p.exec(t, "usual", "ls /dev/kmsg 2>/dev/null || echo none"), "none")
	equal(t, "a masked path", p.exec(t, "usual", "cat /proc/kcore 2>/dev/null | wc -c"), "0")
	equal(t, "a read-only path", p.exec(t, "usual", "echo 1 2>/dev/null > /proc/sys/kernel/panic || echo refused"), "refused")
}

func TestSysctls(t *testing.T) {
	p := theNode(t).pod(t, `
securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}, {name: kernel.shm_rmid_forced, value: "1"}]}
containers: [{name: a, image: IMAGE}]
`)
	p.ready(t)
	equal(t, "a sysctl of the network", p.exec(t, "a", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80")
	equal(t, "a sysctl of IPC", p.exec(t, "a", "cat /proc/sys/kernel/shm_rmid_forced"), "1")
}

func TestAPodInAUserNamespace(t *testing.T) {
	p := theNode(t).pod(t, `
hostUsers: false
securityContext: {fsGroup: 2000}
volumes: [{name: v, emptyDir: {}}]
containers: [{name: a, image: IMAGE, volumeMounts: [{name: v, mountPath: /v}]}]
`)
	p.ready(t)
	equal(t, "root inside", p.exec(t, "a", "id -u"), "0")
	equal(t, "a file in a volume belongs to root inside", p.exec(t, "a", "touch /v/x; stat -c %u /v/x"), "0")
	inside, outside, length := 0, 0, 0
	mapping := p.exec(t, "a", "cat /proc/self/uid_map")
	if !scan(mapping, &inside, &outside, &length) || inside != 0 || outside < 65536 || length != 65536 {
		t.Errorf("the mapping is %q: want 65536 ids from 0 that are nobody's on the node", mapping)
	}
	other := theOther(t, p)
	if other == outside {
		t.Error("two pods have the same ids on the node")
	}
}

// theOther is where the ids of a second pod begin.
func theOther(t *testing.T, p *static) int {
	t.Helper()
	q := p.node.pod(t, "hostUsers: false\ncontainers: [{name: a, image: IMAGE}]")
	q.ready(t)
	inside, outside, length := 0, 0, 0
	scan(q.exec(t, "a", "cat /proc/self/uid_map"), &inside, &outside, &length)
	return outside
}

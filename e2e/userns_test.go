package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const mappedTo, mappedLength = 165536, 65536

func mapping() []*runtime.IDMapping {
	return []*runtime.IDMapping{{HostId: mappedTo, Length: mappedLength}}
}

// inUserNS asks for a user namespace, as the kubelet does for hostUsers: false.
func inUserNS(c *runtime.PodSandboxConfig) {
	c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
		UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: mapping(), Gids: mapping()},
	}}
}

// mapped is a mount whose files belong to the container's users.
func mapped(from, at string) func(*runtime.ContainerConfig) {
	return mount(&runtime.Mount{HostPath: from, ContainerPath: at, UidMappings: mapping(), GidMappings: mapping()})
}

func ownerOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	ok(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestAPodInAUserNamespace(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t, inUserNS, func(c *runtime.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1"}
	})
	volume := hostDir(t, n, map[string]string{"of-root": "secret"})
	ok(t, os.Chmod(filepath.Join(volume, "of-root"), 0o600))
	ok(t, os.Chmod(volume, 0o700))
	c := p.start(t, "exec sleep 100000", mapped(volume, "/volume"), func(c *runtime.ContainerConfig) { c.WorkingDir = "/made/for it" })

	equal(t, "the map", strings.Join(strings.Fields(c.exec(t, "cat /proc/self/uid_map")), " "), fmt.Sprintf("0 %d %d", mappedTo, mappedLength))
	equal(t, "who it is inside", c.exec(t, "id -u; id -g"), "0\n0")
	status := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid(t))))(t))
	contains(t, "its status on the node", status, fmt.Sprintf("Uid:\t%d\t", mappedTo), fmt.Sprintf("Gid:\t%d\t", mappedTo))
	for path, want := range map[string]string{
		"/": "0:0", "/etc/passwd": "0:0", "/volume/of-root": "0:0", "/etc/resolv.conf": "0:0", "/etc/hostname": "0:0", "/dev/shm": "0:0", "/made": "0:0", "/made/for it": "0:0",
	} {
		equal(t, "the owner of "+path, c.exec(t, "stat -c %u:%g '"+path+"'"), want)
	}
	equal(t, "what is root's alone", c.exec(t, "cat /volume/of-root"), "secret")
	c.exec(t, "echo x > /new; echo y > /volume/new; mkdir /tmp/d; chown 1000:1000 /volume/new; echo z > /dev/shm/z; echo more >> /etc/hostname")
	equal(t, "who owns a new file of the root", ownerOf(t, fmt.Sprintf("/proc/%d/root/new", c.pid(t))), fmt.Sprintf("%d:%d", mappedTo, mappedTo))
	equal(t, "who owns a new file of the volume on the node", ownerOf(t, filepath.Join(volume, "new")), "1000:1000")
	equal(t, "a pod's sysctl", c.exec(t, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"), "0\n1")
	contains(t, "its interfaces", c.exec(t, "ip addr"), p.status(t).Network.Ip)
	contains(t, "its sysfs", c.exec(t, "ls /sys/class/net"), "eth0")
	other := n.pod(t)
	other.start(t, "echo hello | nc -l -p 80 >/dev/null")
	eventually(t, "it reaches another pod", func() bool {
		return strings.Contains(c.exec(t, "nc -w 2 "+other.status(t).Network.Ip+" 80 </dev/null 2>&1 || true"), "hello")
	})
	// Nothing of the node's is writable, and the namespace is not the node's.
	equal(t, "writing the node's sysctls", c.exec(t, "echo 1 2>/dev/null >/proc/sys/vm/swappiness || echo refused"), "refused")
}

func TestAUserNamespaceSurvivesTheDaemonsDeath(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	p := n.pod(t, inUserNS)
	before := p.start(t, "exec sleep 100000")
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "exec after the restart", before.exec(t, "id -u"), "0")
	after := p.start(t, "exec sleep 100000")
	ns := func(c *container) string { return must(os.Readlink(fmt.Sprintf("/proc/%d/ns/user", c.pid(t))))(t) }
	equal(t, "the user namespace of a container made after it", ns(after), ns(before))
	equal(t, "the pid namespace, which pause holds", after.exec(t, "ps | grep -c '[/]pause'"), "1")
}

func TestAUserNamespaceWithTheNodesNetwork(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, inUserNS, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	})
	c := p.start(t, "exec sleep 100000")
	own := must(os.Readlink("/proc/self/ns/net"))(t)
	equal(t, "its network namespace", must(os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.pid(t))))(t), own)
	equal(t, "changing the node's network", c.exec(t, "ip link set lo mtu 1234 2>/dev/null || echo refused"), "refused")
	contains(t, "the node's interfaces in sysfs", c.exec(t, "ls /sys/class/net"), "lo")
	contains(t, "a write to sysfs", c.exec(t, "echo x 2>&1 >/sys/class/net/lo/ifalias || true"), "Read-only")
}

func TestUsersOfAUserNamespaceAndWhoIsRefused(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, inUserNS)
	as := func(uid int64) func(*runtime.ContainerConfig) {
		return func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: uid}
			c.Linux.SecurityContext.SupplementalGroups = []int64{4000}
		}
	}
	c := p.start(t, "exec sleep 100000", as(1234))
	equal(t, "its ids", c.exec(t, "id -u; id -g; id -G"), "1234\n1234\n1234 4000")
	contains(t, "on the node", string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid(t))))(t)), fmt.Sprintf("Uid:\t%d\t", mappedTo+1234))
	_, err := p.createErr(t, as(mappedLength))
	refused(t, err, code(codes.InvalidArgument), "user 65536", "0 to 65535")
	_, err = p.createErr(t, func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_NODE}}
	})
	refused(t, err, code(codes.InvalidArgument), "userns_options", "not the same as the pod sandbox's")
}

func TestAPrivilegedContainerInAUserNamespaceIsRootOnlyThere(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, inUserNS, func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.Privileged = true })
	equal(t, "it may mount", c.exec(t, "mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs none /mnt && echo yes"), "yes")
	contains(t, "the node's sysctls", c.exec(t, "echo 1 2>&1 >/proc/sys/vm/swappiness || true"), "ermission denied")
}

func TestUserNamespacesAreAdvertised(t *testing.T) {
	n := theNode(t)
	s, err := n.cri.Runtime.Status(t.Context(), &runtime.StatusRequest{})
	ok(t, err)
	for _, h := range s.RuntimeHandlers {
		if !h.Features.UserNamespaces {
			t.Errorf("handler %q has none", h.Name)
		}
	}
	if !s.Features.UserNamespacesHostNetwork {
		t.Error("not with the node's network")
	}
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostDir is a directory of the node to mount into containers.
func hostDir(t *testing.T, n *node, files map[string]string) string {
	t.Helper()
	dir := must(n.lab.Mkdir("host", fmt.Sprint(serial.Add(1))))(t)
	for name, content := range files {
		ok(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	return dir
}

func mount(m *runtime.Mount) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Mounts = append(c.Mounts, m) }
}

func TestMountsAreReadWriteOrReadOnlyAsAsked(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, map[string]string{"in": "from the node"})
	out := p.output(t, "cat /rw/in; echo; echo back > /rw/out; touch /ro/x 2>&1; cat /one",
		mount(&runtime.Mount{HostPath: dir, ContainerPath: "/rw"}),
		mount(&runtime.Mount{HostPath: dir, ContainerPath: "/ro", Readonly: true}),
		mount(&runtime.Mount{HostPath: filepath.Join(dir, "in"), ContainerPath: "/one"}))
	contains(t, "its log", out, "from the node\n", "Read-only file system")
	if !strings.HasSuffix(out, "from the node") {
		t.Errorf("a single file was not mounted: %s", out)
	}
	back := must(os.ReadFile(filepath.Join(dir, "out")))(t)
	equal(t, "what the container wrote", string(back), "back\n")
}

func TestMountPropagation(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{Privileged: true}
	})
	dir := hostDir(t, n, nil)
	ok(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ok(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	for _, name := range []string{"late", "inner"} {
		ok(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	share := func(mode runtime.MountPropagation) *container {
		return p.start(t, "exec sleep 100000", mount(&runtime.Mount{HostPath: dir, ContainerPath: "/m", Propagation: mode}),
			func(c *runtime.ContainerConfig) {
				c.Linux.SecurityContext.Privileged = mode == runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL
			})
	}
	private := share(runtime.MountPropagation_PROPAGATION_PRIVATE)
	slave := share(runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)
	both := share(runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL)

	late := filepath.Join(dir, "late")
	ok(t, unix.Mount("tmpfs", late, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(late, unix.MNT_DETACH) })
	ok(t, os.WriteFile(filepath.Join(late, "seen"), nil, 0o644))
	equal(t, "private sees a later mount", private.exec(t, "ls /m/late"), "")
	equal(t, "host-to-container sees it", slave.exec(t, "ls /m/late"), "seen")
	equal(t, "bidirectional sees it", both.exec(t, "ls /m/late"), "seen")

	both.exec(t, "mount -t tmpfs tmpfs /m/inner && touch /m/inner/from-inside")
	inner := filepath.Join(dir, "inner")
	t.Cleanup(func() { _ = unix.Unmount(inner, unix.MNT_DETACH) })
	if _, err := os.Stat(filepath.Join(inner, "from-inside")); err != nil {
		t.Errorf("a mount made inside a bidirectional one does not reach the node: %v", err)
	}
}

func TestDevicesAreGivenByName(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	out := p.output(t, "head -c 4 /dev/mine | wc -c; ls /dev/kmsg 2>&1", func(c *runtime.ContainerConfig) {
		c.Devices = []*runtime.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "r"}}
	})
	contains(t, "its log", out, "4\n", "No such file")
}

// cgroupValue reads a file of the container's cgroup, on v1 or v2.
func cgroupValue(t *testing.T, c *container, controller, v1, v2 string) string {
	t.Helper()
	text := must(os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid(t))))(t)
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		parts := strings.SplitN(line, ":", 3)
		file := filepath.Join("/sys/fs/cgroup", controller, parts[2], v1)
		if parts[0] == "0" {
			file = filepath.Join("/sys/fs/cgroup", parts[2], v2)
		} else if parts[1] != controller {
			continue
		}
		if value, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(value))
		}
	}
	t.Fatalf("no %s cgroup in %s", controller, text)
	return ""
}

func TestResourcesAreInTheCgroup(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000}
	})
	equal(t, "the memory limit", cgroupValue(t, c, "memory", "memory.limit_in_bytes", "memory.max"), "33554432")
	if quota := cgroupValue(t, c, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(quota, "50000") {
		t.Errorf("the CPU quota is %s, want 50000", quota)
	}
}

func TestAContainerOutOfMemoryIsReportedOOMKilled(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec tail /dev/zero", func(c *runtime.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes = 16 << 20
	})
	s := c.exited(t)
	equal(t, "the reason", s.Reason, "OOMKilled")
	equal(t, "the exit code", s.ExitCode, 137)
}

// crictl's default is a PID namespace shared by the pod.
func TestContainersOfAPodShareAPIDNamespaceByDefault(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	first := p.start(t, "exec sleep 24680")
	second := p.start(t, "exec sleep 100000")
	contains(t, "what the second sees", second.exec(t, "ps"), "sleep 24680")
	n.run(t, "stop", "-t", "0", first.id)
	equal(t, "the second's state when the first has ended", second.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
}

func TestContainersHaveTheirOwnPIDNamespaceWhenAsked(t *testing.T) {
	n := theNode(t)
	own := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: own}
	})
	set := func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = own }
	p.start(t, "exec sleep 24680", set)
	second := p.start(t, "exec sleep 100000", set)
	seen := second.exec(t, "ps")
	if strings.Contains(seen, "24680") {
		t.Errorf("it sees its neighbour's processes:\n%s", seen)
	}
	equal(t, "process 1", second.exec(t, "cat /proc/1/comm"), "sleep")
}

func TestAHostNetworkPodIsOnTheNode(t *testing.T) {
	n := theNode(t)
	host := &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname, c.Linux.SecurityContext = "", &runtime.LinuxSandboxSecurityContext{NamespaceOptions: host}
	})
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = host })
	nodes := must(os.Readlink("/proc/self/ns/net"))(t)
	equal(t, "its network namespace", must(os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.pid(t))))(t), nodes)
}

func TestDNSAndSysctlsOfAPod(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.DnsConfig = &runtime.DNSConfig{Servers: []string{"10.123.0.53"}, Searches: []string{"lab.local"}, Options: []string{"ndots:3"}}
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81"}
	})
	out := p.output(t, "cat /etc/resolv.conf /proc/sys/net/ipv4/ip_unprivileged_port_start")
	contains(t, "resolv.conf and the sysctl", out, "nameserver 10.123.0.53", "search lab.local", "options ndots:3", "\n81")
}

func TestAHostPortLeadsToThePod(t *testing.T) {
	n := theNode(t)
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{Protocol: runtime.Protocol_TCP, ContainerPort: 80, HostPort: 18080}}
	})
	p.start(t, "mkdir -p /tmp/www && echo mapped > /tmp/www/index.html && exec httpd -f -p 80 -h /tmp/www")
	client := n.pod(t).start(t, "exec sleep 100000")
	eventually(t, "the node's port answers", func() bool {
		gateway := "10.123.0.1"
		out, err := n.crictl.Run(t.Context(), "exec", "-s", client.id, "wget", "-qO-", "http://"+gateway+":18080/")
		return err == nil && out == "mapped"
	})
}

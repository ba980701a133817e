package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Holes that other runtimes had, each tried on ours. Those that only the shape
// of a request or an image shows are tested in cri and backends/bundles.

// CVE-2022-0811 (CRI-O): a sysctl's value smuggled in kernel.core_pattern.
func TestASysctlCannotSmuggleInAnother(t *testing.T) {
	n := theNode(t)
	before := must(os.ReadFile("/proc/sys/kernel/core_pattern"))(t)
	t.Cleanup(func() { ok(t, os.WriteFile("/proc/sys/kernel/core_pattern", before, 0o644)) }) // of this machine
	for _, sysctls := range []map[string]string{
		{"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/bin/x"},
		{"kernel.shm_rmid_forced": "1\nkernel.core_pattern=|/bin/x"},
		{"kernel.core_pattern": "|/bin/x"},
		{"net/../kernel/core_pattern": "|/bin/x"},
	} {
		refused(t, n.runPod(t, "", n.podConfig(t, func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = sysctls })), code(codes.InvalidArgument), "sysctl")
	}
	equal(t, "the node's core_pattern", string(must(os.ReadFile("/proc/sys/kernel/core_pattern"))(t)), string(before))
}

// CVE-2022-4318 (CRI-O): a line break in HOME became a line of /etc/passwd.
func TestTheEnvironmentAddsNoUser(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	out := p.output(t, "cat /etc/passwd; id -u", func(c *runtime.ContainerConfig) {
		c.Envs = []*runtime.KeyValue{{Key: "HOME", Value: []byte("/x:/bin/sh\nevil::0:0::/:/bin/sh")}}
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 4242}
	})
	if strings.Contains(out, "evil") || !strings.HasSuffix(out, "\n4242") {
		t.Errorf("inside: %s", out)
	}
}

// CVE-2024-21626 (runc): a working directory that is a leaked descriptor of the
// node's file system.
func TestAWorkingDirectoryCannotBeADescriptorOfTheNodes(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	marker := must(n.lab.Write("x", "marker-of-the-node"))(t)
	for fd := range 16 {
		config := p.containerConfig("for up in . .. ../.. ../../.. ../../../../../../../..; do ls $up"+marker+" && echo ESCAPED; done; true",
			func(c *runtime.ContainerConfig) { c.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd) })
		r, err := p.cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		if err != nil {
			continue
		}
		c := &container{pod: p, id: r.ContainerId, config: config}
		if _, err := p.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: c.id}); err != nil {
			continue
		}
		c.exited(t)
		if out := c.log(t); strings.Contains(out, "ESCAPED") {
			t.Errorf("by descriptor %d: %s", fd, out)
		}
	}
}

// CVE-2019-5736 (runc): a container writes over the program that enters it.
func TestAContainerCannotWriteOverWhatEntersIt(t *testing.T) {
	n := theNode(t)
	monitor := fmt.Sprintf("/proc/%d/exe", n.daemon.Monitors()[0])
	sum := func() [32]byte { return sha256.Sum256(must(os.ReadFile(monitor))(t)) }
	before := sum()
	c := n.pod(t).start(t, "while :; do for p in /proc/[0-9]*/exe; do echo evil >>$p; done; done 2>/dev/null")
	for range 20 {
		equal(t, "exec meanwhile", c.exec(t, "echo fine"), "fine")
	}
	if sum() != before {
		t.Error("troupe-monitor was changed")
	}
}

// CVE-2022-27652 (CRI-O), CVE-2022-24769 (containerd): inheritable capabilities
// gave a container's users those of files. Ambient ones are given to who asks.
func TestNothingIsInheritableUnlessItIsAmbient(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	show := func(c *runtime.Capability) string {
		return p.output(t, "grep -E 'CapInh|CapAmb|CapEff' /proc/self/status | cut -f2", func(cc *runtime.ContainerConfig) {
			cc.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000}
			cc.Linux.SecurityContext.Capabilities = c
		})
	}
	zero, bind := strings.Repeat("0", 16), "0000000000000400"
	equal(t, "without a wish", show(&runtime.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}}), zero+"\n"+zero+"\n"+zero)
	equal(t, "ambient NET_BIND_SERVICE", show(&runtime.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}), bind+"\n"+bind+"\n"+bind)
}

// CVE-2024-3154 (CRI-O): annotations became properties of a systemd unit.
func TestAnnotationsDoNotReachTheRuntime(t *testing.T) {
	n := theNode(t)
	annotations := map[string]string{
		"org.systemd.property.ExecStartPre": "['/bin/touch', '/evil']", "run.oci.keep_original_groups": "1", "run.oci.mount_context_type": "x",
	}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) { c.Annotations = annotations })
	c := p.create(t, "true", func(c *runtime.ContainerConfig) { c.Annotations = annotations })
	found := 0
	ok(t, filepath.WalkDir(n.lab.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "config.json" || !strings.Contains(path, c.id) {
			return nil
		}
		found++
		if text := string(must(os.ReadFile(path))(t)); strings.Contains(text, "systemd.property") || strings.Contains(text, "run.oci") {
			t.Errorf("%s has them", path)
		}
		return nil
	}))
	if found == 0 {
		t.Error("no config.json was found")
	}
}

// CVE-2025-31133 and CVE-2025-52881 (runc): masks and read-only paths that do
// not hold. The image has a /dev/null and a /proc of its own.
func TestMasksAndReadOnlyPathsHold(t *testing.T) {
	n := theNode(t)
	ref, _ := n.made(t, "masks", evilImage())
	n.run(t, "pull", ref)
	t.Cleanup(func() { n.run(t, "rmi", ref) })
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	equal(t, "bytes of /proc/keys", c.exec(t, "cat /proc/keys /proc/timer_list 2>/dev/null | wc -c"), "0")
	equal(t, "/proc/sys", c.exec(t, "echo x 2>/dev/null >/proc/sys/kernel/domainname || echo refused"), "refused")
	equal(t, "/proc/sysrq-trigger", c.exec(t, "echo h 2>/dev/null >/proc/sysrq-trigger || echo refused"), "refused")
	equal(t, "what covers /proc/keys", c.exec(t, "stat -c %t:%T /proc/keys"), "1:3")
	contains(t, "/sys", c.exec(t, "touch /sys/x 2>&1 || true"), "ead-only")
	t.Cleanup(func() { n.remove(t, p.id) })
}

func evilImage() harness.ImageSpec {
	return harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Files: map[string]string{"dev/null": "not a device", "proc/keys": "not proc", "proc/self/attr/exec": ""}}
}

// CVE-2026-53488 (containerd): labels of an image became the container's, and
// a plugin ran what one of them names.
func TestLabelsOfAnImageAreNotTheContainers(t *testing.T) {
	n := theNode(t)
	ref, _ := n.made(t, "labels", harness.ImageSpec{Labels: map[string]string{"containerd.io/restart.loguri": "binary:///bin/touch?/evil", "run.oci.x": "y"}})
	n.run(t, "pull", ref)
	t.Cleanup(func() { _ = n.removeImage(t, ref) })
	p := n.pod(t)
	c := p.create(t, "true", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	if s := c.status(t); len(s.Labels)+len(s.Annotations) > 0 {
		t.Errorf("labels %v, annotations %v", s.Labels, s.Annotations)
	}
	n.remove(t, p.id)
}

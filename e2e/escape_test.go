package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Ways out of a container that others had. e2e/cve takes each guard away and
// sees its test fail.

// CVE-2019-5736 (runc): a container that has the runtime's program run itself
// ("/proc/self/exe" as the command) gets hold of the node's file, and can write
// to it as soon as nobody runs it. What it gets must be another file.
func TestTheProgramThatEntersAContainerIsNotTheNodes(t *testing.T) {
	n := theNode(t)
	var node unix.Stat_t
	ok(t, unix.Stat(fmt.Sprintf("/proc/%d/exe", n.daemon.Monitors()[0]), &node))
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Command, c.Args = []string{"/proc/self/exe"}, []string{"--dir", "/tmp/itself"}
	})
	// It runs on as a monitor of its own, in the container, or has ended: what
	// stands for it is looked at from the outside, by the process's number.
	pid := c.pid(t)
	var inside unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &inside); err != nil {
		t.Fatalf("the program did not stay to be looked at: %v; its log: %s", err, c.log(t))
	}
	if inside.Ino == node.Ino && inside.Dev == node.Dev {
		t.Errorf("the container runs the node's troupe-monitor: inode %d of device %d", inside.Ino, inside.Dev)
	}
	if f, err := os.OpenFile(fmt.Sprintf("/proc/%d/exe", pid), os.O_WRONLY, 0); err == nil {
		f.Close()
		t.Error("what the container runs can be written to")
	}
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642 (runc): with /proc a link in
// the image, proc was mounted elsewhere, and what masks and confines through
// /proc met files of the image.
func TestAProcThatIsALinkIsRefused(t *testing.T) {
	n := theNode(t)
	for name, link := range map[string]map[string]string{"proc": {"proc": "tmp/proc"}, "sys": {"sys": "tmp/sys"}} {
		ref, _ := n.made(t, "hole-link-"+name, harness.ImageSpec{Links: link, Files: map[string]string{"tmp/" + name + "/x": "x"}})
		n.run(t, "pull", ref)
		t.Cleanup(func() { _ = n.removeImage(t, ref) })
		p := n.pod(t)
		id, err := p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = ref })
		if err == nil {
			_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
		}
		if err == nil {
			t.Errorf("a container runs whose /%s is a link", name)
		}
		n.remove(t, p.id)
	}
}

// CVE-2026-41579 (runc): with /dev a link in the image, links and devices of
// /dev were made where it leads, on the node.
func TestADevThatIsALinkMakesNothingOnTheNode(t *testing.T) {
	n := theNode(t)
	dir, untouched := bait(t)
	ok(t, os.WriteFile(filepath.Join(dir, "ptmx"), nil, 0o644)) // which would be replaced
	defer os.Remove(filepath.Join(dir, "ptmx"))
	ref, _ := n.made(t, "hole-dev", harness.ImageSpec{Links: map[string]string{"dev": strings.Repeat("../", 30) + dir[1:]}})
	n.run(t, "pull", ref)
	t.Cleanup(func() { _ = n.removeImage(t, ref) })
	p := n.pod(t)
	id, err := p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	if err == nil {
		_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
	}
	t.Logf("%v", err) // refused or made inside: both are right
	info := must(os.Lstat(filepath.Join(dir, "ptmx")))(t)
	if !info.Mode().IsRegular() {
		t.Errorf("the node's file is now %s", info.Mode())
	}
	ok(t, os.Remove(filepath.Join(dir, "ptmx")))
	untouched()
	n.remove(t, p.id)
}

// CVE-2025-52565 (runc): a /dev/console that is a link had the container's
// terminal mounted over what it leads to.
func TestAConsoleThatIsALinkIsNotFollowed(t *testing.T) {
	n := theNode(t)
	dir := hostDir(t, n, nil)
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7} {
		ok(t, unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))))
	}
	ok(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dir, "console")))
	for _, sub := range []string{"pts", "shm", "mqueue"} {
		ok(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	p := n.pod(t)
	id, err := p.createErr(t, mount(&runtime.Mount{ContainerPath: "/dev", HostPath: dir}), mount(&runtime.Mount{ContainerPath: "/dev/pts", HostPath: "/dev/pts"}),
		func(c *runtime.ContainerConfig) { c.Tty = true })
	if err == nil {
		_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
	}
	if err != nil {
		contains(t, "the error", err.Error(), "console")
		return
	}
	out := n.run(t, "exec", "-s", id, "grep", "-c", "core_pattern", "/proc/self/mountinfo")
	t.Errorf("it runs; mounts over core_pattern: %s", out)
}

// CVE-2022-0532 (CRI-O): with the node's network, a pod's sysctls were the
// node's.
func TestAPodOnTheNodesNetworkCannotSetItsSysctls(t *testing.T) {
	n := theNode(t)
	const file = "/proc/sys/net/ipv4/ip_default_ttl"
	before := must(os.ReadFile(file))(t)
	t.Cleanup(func() { ok(t, os.WriteFile(file, before, 0o644)) })
	err := n.runPod(t, "", n.podConfig(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_default_ttl": "33"}
		c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}}
	}))
	refused(t, err, code(codes.InvalidArgument), "sysctl")
	equal(t, "the node's", string(must(os.ReadFile(file))(t)), string(before))
}

// CVE-2023-25809 (runc): the node's cgroup tree could be written to.
func TestTheCgroupTreeCannotBeWrittenTo(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	// On v1 the directory above the hierarchies is a tmpfs of the container's.
	out := c.exec(t, "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do test $(stat -f -c %T $d) != tmpfs && mkdir $d/made 2>/dev/null && echo $d; done; echo end")
	equal(t, "where a cgroup could be made", out, "end")
}

// CVE-2021-41103, CVE-2024-25621, CVE-2020-15257 (containerd): users of the node
// could look into roots and volumes of containers, run setuid programs of
// images, and speak to the daemon's helper by a socket without a file.
func TestUsersOfTheNodeReachNothingOfContainers(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "echo mine > /secret; exec sleep 100000")
	eventually(t, "the container has written", func() bool { return c.exec(t, "cat /secret") == "mine" })
	for _, dir := range []string{n.daemon.Root, n.daemon.Run, filepath.Join(n.lab.Dir, "node", "images")} {
		ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			info, err := d.Info()
			if err != nil {
				return nil // it has just gone
			}
			mode := info.Mode()
			switch open := mode.Perm() & 0o007; {
			case mode.Type() == fs.ModeSymlink:
			case mode.IsDir() && (open&0o001 == 0 || d.Name() == "pause-root"):
				return fs.SkipDir // nobody gets further; or there is only our own program
			case mode.IsDir() && open&0o006 != 0:
				t.Errorf("every user of the node may list or change %s (%s)", path, mode)
				return fs.SkipDir
			case !mode.IsDir() && open != 0:
				t.Errorf("every user of the node reaches %s (%s)", path, mode)
			}
			return nil
		}))
	}
	for _, pid := range append(n.daemon.Monitors(), n.daemon.Pid()) {
		for _, name := range abstractSockets(t, pid) {
			t.Errorf("process %d has the socket %s, which no file guards", pid, name)
		}
	}
}

// abstractSockets are those of a process that every process of the network
// namespace can connect to.
func abstractSockets(t *testing.T, pid int) (names []string) {
	t.Helper()
	held := map[uint64]bool{}
	fds := must(filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)))(t)
	for _, fd := range fds {
		if info, err := os.Stat(fd); err == nil && info.Mode().Type() == fs.ModeSocket {
			held[info.Sys().(*syscall.Stat_t).Ino] = true
		}
	}
	for _, line := range strings.Split(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid)))(t)), "\n") {
		var inode uint64
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.HasPrefix(fields[7], "@") {
			continue
		}
		if _, err := fmt.Sscan(fields[6], &inode); err == nil && held[inode] {
			names = append(names, fields[7])
		}
	}
	return names
}

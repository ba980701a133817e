package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each test here is a hole that another runtime had, tried on this one. What
// must not be reached is a directory of the node with a file that tells.

const secret = "only the node's"

// bait is a directory of the node that no container may reach.
func bait(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	dir = t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "secret"), []byte(secret), 0o644))
	return dir, func() {
		t.Helper()
		entries := must(os.ReadDir(dir))(t)
		if len(entries) != 1 || string(must(os.ReadFile(filepath.Join(dir, "secret")))(t)) != secret {
			t.Errorf("the node's directory was written to: %v", entries)
		}
	}
}

// CVE-2022-23648 (containerd): a VOLUME of the image that is a link, or a path
// with "..", brought a directory of the node into the container.
func TestAVolumeOfAnImageDoesNotReachTheNode(t *testing.T) {
	dir, untouched := bait(t)
	for _, mode := range []string{"mkdir", "bind"} {
		t.Run(mode, func(t *testing.T) {
			n := ownNode(t, func(o *harness.DaemonOptions) { o.Images = fmt.Sprintf("image_volumes = %q", mode) })
			n.leavesNothing(t)
			volumes := []string{"/up/../../../../../.." + dir, "/link", "/below/x"}
			ref, _ := n.made(t, "hole-volume", harness.ImageSpec{
				Volumes: volumes,
				Links:   map[string]string{"link": strings.Repeat("../", 30) + dir[1:], "below": dir},
			})
			n.run(t, "pull", ref)
			p := n.pod(t)
			out := p.output(t, "cat /link/secret "+dir+"/secret 2>&1; touch /link/mine /below/x/mine "+dir+"/mine 2>&1; true", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
			if strings.Contains(out, secret) {
				t.Errorf("the container read it:\n%s", out)
			}
			untouched()
		})
	}
}

// CVE-2024-5154 (CRI-O): a link in the image in place of a directory that the
// runtime writes into (/etc, for mtab) had it write on the node.
func TestWhatIsMadeInARootStaysInIt(t *testing.T) {
	n := theNode(t)
	dir, untouched := bait(t)
	up := strings.Repeat("../", 30) + dir[1:]
	for name, links := range map[string]map[string]string{
		"run": {"run": up}, "work": {"work": up}, "media": {"media": dir}, "srv": {"srv": up},
	} {
		ref, _ := n.made(t, "hole-"+name, harness.ImageSpec{Links: links, WorkingDir: "/work/made", Volumes: []string{"/srv/made"}})
		n.run(t, "pull", ref)
		p := n.pod(t)
		_, err := p.createErr(t, func(c *runtime.ContainerConfig) {
			c.Image.Image = ref
			c.Mounts = []*runtime.Mount{{ContainerPath: "/media/made/file", HostPath: "/etc/hostname"}, {ContainerPath: "/run/made", HostPath: n.lab.Dir}}
		})
		t.Logf("%s: %v", name, err) // refused or made inside: both are right
		untouched()
		ok(t, n.removePods(t))
		ok(t, n.removeImage(t, ref))
	}
}

// CVE-2024-21626 (runc): a working directory in a descriptor that was left open
// was the node's.
func TestAWorkingDirectoryInADescriptorDoesNotReachTheNode(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	for fd := 3; fd < 12; fd++ {
		id, err := p.createErr(t, func(c *runtime.ContainerConfig) {
			c.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd)
			c.Command = []string{"sh", "-c", "cat ../../../../../../etc/hostname ../../../../../..//proc/self/mountinfo; pwd"}
		})
		if err != nil {
			continue
		}
		_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
		if err == nil {
			t.Errorf("a container runs with working directory /proc/self/fd/%d", fd)
		}
		n.run(t, "rm", "-f", id)
	}
}

// CVE-2025-31133 and CVE-2025-52565 (runc): /dev/null or /dev/console that is a
// link had the runtime bind what it leads to, here the node's core_pattern.
func TestALinkInPlaceOfADeviceIsNotFollowed(t *testing.T) {
	n := theNode(t)
	before := string(must(os.ReadFile("/proc/sys/kernel/core_pattern"))(t))
	for _, tty := range []bool{false, true} {
		dir := hostDir(t, n, nil)
		for _, name := range []string{"null", "console", "ptmx"} {
			ok(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dir, name)))
		}
		ok(t, os.Mkdir(filepath.Join(dir, "pts"), 0o755))
		ok(t, os.Mkdir(filepath.Join(dir, "shm"), 0o755))
		p := n.pod(t)
		id, err := p.createErr(t, func(c *runtime.ContainerConfig) {
			c.Tty = tty
			c.Mounts = []*runtime.Mount{{ContainerPath: "/dev", HostPath: dir}}
			c.Command = []string{"sh", "-c", "echo '|/tmp/pwn' > /proc/sys/kernel/core_pattern; echo '|/tmp/pwn' > /proc/kcore; sleep 100000"}
		})
		if err == nil {
			_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
			if err == nil {
				out, _ := n.crictl.Run(t.Context(), "exec", "-s", id, "sh", "-c", "head -c 8 /proc/kcore | wc -c; grep -c core_pattern /proc/self/mountinfo; true")
				contains(t, "what is masked and what is mounted", out, "0\n0")
			}
		}
		t.Logf("tty %v: %v", tty, err)
		if after := string(must(os.ReadFile("/proc/sys/kernel/core_pattern"))(t)); after != before {
			ok(t, os.WriteFile("/proc/sys/kernel/core_pattern", []byte(before), 0o644))
			t.Errorf("core_pattern of the node was %q and is %q", before, after)
		}
		n.remove(t, p.id)
	}
}

// CVE-2019-16884, CVE-2025-52881 (runc): a mount over /proc catches the writes
// that confine the container.
func TestNothingIsMountedOverProcOfAContainer(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, nil)
	for _, at := range []string{"/proc", "/proc/self/attr", "/proc/sys/kernel", "/x/../proc/thread-self"} {
		_, err := p.createErr(t, mount(&runtime.Mount{ContainerPath: at, HostPath: dir}))
		refused(t, err, code(codes.InvalidArgument), "/proc")
	}
	// A link in the image does not get round it either.
	ref, _ := n.made(t, "hole-proc", harness.ImageSpec{Links: map[string]string{"innocent": "proc/sys"}})
	n.run(t, "pull", ref)
	t.Cleanup(func() { _ = n.removeImage(t, ref) })
	id, err := p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = ref }, mount(&runtime.Mount{ContainerPath: "/innocent", HostPath: dir}))
	if err == nil {
		t.Errorf("container %s has a directory mounted over /proc/sys", id)
	}
}

// CVE-2021-30465 (runc): a volume with a link in it, shared with a container
// that swaps it, had a mount land on the node. The runtime resolves in the root.
func TestAMountBelowALinkInAVolumeStaysInTheContainer(t *testing.T) {
	n := theNode(t)
	dir, untouched := bait(t)
	volume, other := hostDir(t, n, nil), hostDir(t, n, map[string]string{"file": "x"})
	ok(t, os.Symlink(strings.Repeat("../", 30)+dir[1:], filepath.Join(volume, "link")))
	p := n.pod(t)
	id, err := p.createErr(t, mount(&runtime.Mount{ContainerPath: "/v", HostPath: volume}), mount(&runtime.Mount{ContainerPath: "/v/link/made", HostPath: other}))
	t.Logf("%s: %v", id, err)
	untouched()
	var st unix.Statfs_t
	ok(t, unix.Statfs(dir, &st))
}

// removePods removes all pods of the node.
func (n *node) removePods(t *testing.T) error {
	t.Helper()
	r, err := n.cri.Runtime.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	for _, p := range r.GetItems() {
		n.remove(t, p.Id)
	}
	return err
}

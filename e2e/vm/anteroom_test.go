//go:build vm

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Here the node's mounts are shared, as systemd has them: what is mounted for an
// init's beginning must not come out, and what the node mounts later must come in.
func TestAContainerBeginsWithFewMountsAndSeesWhatTheNodeMountsLater(t *testing.T) {
	volume := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(volume, "later"), 0o755))
	p := newPod(t, "")
	before := mountsOf(t, "1")
	c := p.start(t, "exec sleep 100000", limits, func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: volume, ContainerPath: "/volume", Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})
	})
	for _, line := range mountsOf(t, "1") {
		if strings.Contains(line, "anteroom") {
			t.Errorf("seen on the node: %s", line)
		}
	}
	if more := len(mountsOf(t, "1")) - len(before); more > 1 { // its root
		t.Errorf("the node has %d more mounts", more)
	}
	ok(t, unix.Mount("later", filepath.Join(volume, "later"), "tmpfs", 0, "size=64k"))
	defer func() { ok(t, unix.Unmount(filepath.Join(volume, "later"), unix.MNT_DETACH)) }()
	ok(t, os.WriteFile(filepath.Join(volume, "later", "file"), []byte("came later\n"), 0o600))
	equal(t, "what the node has mounted since", execIn(t, c, "cat /volume/later/file"), "came later")
	log, err := exec.Command("journalctl", "-u", "troupe-monitor", "-o", "cat").Output()
	ok(t, err)
	if strings.Contains(string(log), "begin among all of the node's mounts") {
		t.Errorf("it did not begin with few mounts:\n%s", log)
	}
	if !strings.Contains(string(log), "serving") {
		t.Error("the monitor's log is somewhere else")
	}
}

func mountsOf(t *testing.T, pid string) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	ok(t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

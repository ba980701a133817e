package e2e

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An image may hold devices, as with containerd and CRI-O: what may be opened
// is for the container's device cgroup to say, not for the file.
func TestADeviceOfTheImageCannotBeOpened(t *testing.T) {
	n := theNode(t)
	disk, major, minor := aDisk(t)
	l := &harness.Layer{}
	l.Device(tar.TypeBlock, "disk", major, minor)
	l.Device(tar.TypeChar, "kmsg", 1, 11)
	l.Device(tar.TypeChar, "nothing", 1, 3)
	ref, _ := n.made(t, "devices", harness.ImageSpec{More: []*harness.Layer{l}})
	n.run(t, "pull", ref)
	p := n.pod(t)
	out := p.output(t, "id -u; ls -l /disk; head -c 1 /disk; head -c 1 /kmsg; echo x >/nothing && echo written", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	contains(t, "root inside, with "+disk+" in the image", out, "0\nbrw-rw-rw-", fmt.Sprintf("%d, ", major))
	if strings.Count(out, "Operation not permitted") != 2 {
		t.Errorf("the disk and the kernel's log are not both refused:\n%s", out)
	}
	contains(t, "a device that every container has", out, "written")
}

// aDisk is a block device of this machine that root can open.
func aDisk(t *testing.T) (name string, major, minor int64) {
	t.Helper()
	for _, dev := range must(filepath.Glob("/sys/class/block/*/dev"))(t) {
		name = filepath.Base(filepath.Dir(dev))
		f, err := os.Open("/dev/" + name)
		if err != nil {
			continue
		}
		f.Close()
		if _, err := fmt.Sscanf(string(must(os.ReadFile(dev))(t)), "%d:%d", &major, &minor); err == nil {
			return name, major, minor
		}
	}
	t.Fatal("this machine has no block device that can be opened")
	return "", 0, 0
}

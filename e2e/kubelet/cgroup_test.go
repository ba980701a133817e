//go:build kubelet

package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// knob reads a cgroup file of the container's init process: v1 names the file
// with its controller in front ("memory.limit_in_bytes"), v2 is its name there.
func (p *static) knob(t *testing.T, container, v1, v2 string) string {
	t.Helper()
	dir, unified := p.cgroup(t, container, strings.SplitN(v1, ".", 2)[0])
	file := v1
	if unified {
		file = v2
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	ok(t, err)
	return strings.TrimSpace(string(text))
}

// cgroup is the directory of a container in a controller's hierarchy, and
// whether that is v2's.
func (p *static) cgroup(t *testing.T, container, controller string) (dir string, unified bool) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid(t, container)))
	ok(t, err)
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, c := range strings.Split(parts[1], ",") {
			if c == controller {
				return "/sys/fs/cgroup/" + parts[1] + parts[2], false
			}
		}
		if parts[0] == "0" && len(strings.Split(strings.TrimSpace(string(text)), "\n")) == 1 {
			return "/sys/fs/cgroup" + parts[2], true
		}
	}
	t.Fatalf("container %s is in no cgroup of %s: %s", container, controller, text)
	return "", false
}

// cpu is the container's CPU limit in milli-CPUs; 0 is none.
func (p *static) cpu(t *testing.T, container string) (milli int) {
	t.Helper()
	if dir, unified := p.cgroup(t, container, "cpu"); unified {
		var quota string
		var period int
		text, err := os.ReadFile(dir + "/cpu.max")
		ok(t, err)
		_, err = fmt.Sscan(string(text), &quota, &period)
		ok(t, err)
		if quota == "max" {
			return 0
		}
		var q int
		_, err = fmt.Sscan(quota, &q)
		ok(t, err)
		return q * 1000 / period
	}
	var quota, period int
	_, err := fmt.Sscan(p.knob(t, container, "cpu.cfs_quota_us", "")+" "+p.knob(t, container, "cpu.cfs_period_us", ""), &quota, &period)
	ok(t, err)
	if quota < 0 {
		return 0
	}
	return quota * 1000 / period
}

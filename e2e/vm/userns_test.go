//go:build vm

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inUserNS asks for a user namespace, as the kubelet does for hostUsers: false.
func inUserNS(c *runtime.PodSandboxConfig) {
	ids := []*runtime.IDMapping{{HostId: 165536, Length: 65536}}
	c.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
		UsernsOptions: &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids},
	}}
}

func TestAUserNamespaceInAScopeOfSystemds(t *testing.T) {
	p := newPod(t, "", inUserNS)
	c := p.start(t, "exec sleep 100000", limits)
	checkLimits(t, c, "/troupe.slice/troupe-"+c+".scope")
	equal(t, "the map", strings.Join(strings.Fields(execIn(t, c, "cat /proc/self/uid_map")), " "), "0 165536 65536")
	onNode, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pidOf(t, c)))
	ok(t, err)
	if !strings.Contains(string(onNode), "Uid:\t165536\t") {
		t.Errorf("on the node it is somebody else:\n%s", onNode)
	}
	equal(t, "the owner of a new file", execIn(t, c, "echo x >/new; stat -c %u:%g /new /etc/hostname"), "0:0\n0:0")
	equal(t, "the limit it sees", execIn(t, c, "cat /sys/fs/cgroup/memory.max"), "67108864")
	equal(t, "raising it", execIn(t, c, "echo max 2>/dev/null >/sys/fs/cgroup/memory.max || echo refused"), "refused")
	ns := func(container string) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pidOf(t, container)))
		ok(t, err)
		return link
	}
	systemctl(t, "restart", "troupe")
	equal(t, "the namespace of a container made after a restart", ns(p.start(t, "exec sleep 100000", nil)), ns(c))
}

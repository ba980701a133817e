package bundles

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// node is what this machine and this process can give to a container. It is
// read once: none of it changes while the daemon runs.
type node struct {
	hostname     string
	unified      bool // cgroup v2 alone
	controllers  []string
	swap         bool     // the memory controller counts swap
	capabilities []string // what this process may hand on, as CAP_NAME
	oomFloor     int      // lowest oom_score_adj this process may give
	rlimits      bool     // hard limits may be raised
	seccomp      bool
	apparmor     bool
	selinux      bool
	rro          bool   // recursive read-only mounts (Linux 5.12)
	dev          string // /dev
	hugepages    string // /sys/kernel/mm/hugepages
}

func readNode() (node, error) {
	n := node{
		unified:   cgroups.IsCgroup2UnifiedMode(),
		selinux:   selinux.GetEnabled(),
		apparmor:  startsWith("/sys/module/apparmor/parameters/enabled", "Y"),
		rro:       hasMountSetattr(),
		dev:       "/dev",
		hugepages: "/sys/kernel/mm/hugepages",
	}
	var err error
	if n.hostname, err = os.Hostname(); err != nil {
		return node{}, fmt.Errorf("reading the host name: %w", err)
	}
	if n.capabilities, err = ownCapabilities(); err != nil {
		return node{}, fmt.Errorf("reading the capabilities of this process: %w", err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return node{}, err
	}
	n.seccomp = bytes.Contains(status, []byte("\nSeccomp:"))
	n.rlimits = slices.Contains(n.capabilities, "CAP_SYS_RESOURCE")
	n.oomFloor = -1000
	if !n.rlimits {
		if n.oomFloor, err = ownOOMScore(); err != nil {
			return node{}, err
		}
	}
	if n.controllers, err = ownControllers(n.unified); err != nil {
		return node{}, fmt.Errorf("reading the cgroup controllers: %w", err)
	}
	n.swap = countsSwap(n.unified)
	return n, nil
}

func (n node) has(controller string) bool { return slices.Contains(n.controllers, controller) }

// ownCapabilities is what an init process made from here can end up with: the
// bounding set, as far as it is permitted to this process itself.
func ownCapabilities() ([]string, error) {
	own, err := capability.NewPid2(0)
	if err != nil {
		return nil, err
	}
	if err := own.Load(); err != nil {
		return nil, err
	}
	supported, err := capability.ListSupported()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range supported {
		if own.Get(capability.BOUNDING, c) && own.Get(capability.PERMITTED, c) {
			names = append(names, capName(c))
		}
	}
	return names, nil
}

func ownOOMScore() (int, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// ownControllers are the controllers a container's cgroup can have: on v1
// those mounted as hierarchies of their own, also beside an empty v2 one.
func ownControllers(unified bool) ([]string, error) {
	if unified {
		data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		return strings.Fields(string(data)), err
	}
	paths, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range paths {
		if name != "" && !strings.HasPrefix(name, "name=") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// countsSwap looks for the file a swap limit is written to; on v2 the root
// cgroup has none, so those below it are asked.
func countsSwap(unified bool) bool {
	pattern := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if unified {
		pattern = "/sys/fs/cgroup/*/memory.swap.max"
	}
	found, _ := filepath.Glob(pattern)
	return len(found) > 0
}

// hasMountSetattr asks with a descriptor that cannot be: a kernel that knows
// the call complains about it, an older one about the call.
func hasMountSetattr() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) != unix.ENOSYS
}

func startsWith(path, prefix string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(data), prefix)
}

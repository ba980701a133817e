package bundles

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageMount is an image, or a part of it: "per feature definition readonly"
// (cri-api, Mount.image). There is nothing to propagate.
func (b *bundle) imageMount(m *runtime.Mount, source string) (specs.Mount, error) {
	at := path.Clean(m.GetContainerPath())
	if err := checkOverProc(at, source); err != nil {
		return specs.Mount{}, err
	}
	extra, err := b.extra(m)
	if err != nil {
		return specs.Mount{}, err
	}
	options := append([]string{"rbind", "rprivate", "ro", "nosuid", "nodev"}, extra...)
	return specs.Mount{Destination: at, Type: "bind", Source: source, Options: unique(options)}, nil
}

// overProc are the files of /proc that tools like lxcfs replace. Nothing else
// may be mounted there: the runtime writes labels and sysctls through /proc,
// and a fake file would catch them (CVE-2019-16884, CVE-2025-52881).
var overProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/net/dev", "/proc/slabinfo", "/proc/stat",
	"/proc/swaps", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled", "/proc/uptime",
}

// checkOverProc refuses what a runtime would refuse later, with more words. A
// /proc itself may come from the node, as in pods that watch over it.
func checkOverProc(at, source string) error {
	at = path.Clean(at)
	if !below(at, "/proc") || slices.Contains(overProc, at) {
		return nil
	}
	if at == "/proc" {
		var st unix.Statfs_t
		if err := unix.Statfs(source, &st); err == nil && st.Type == unix.PROC_SUPER_MAGIC {
			return nil
		}
		return messages.Errorf(messages.Invalid, "mount %s: %s is not a proc file system, and nothing else may be mounted there", at, source)
	}
	return messages.Errorf(messages.Invalid, "mount %s: nothing may be mounted below /proc but %s", at, strings.Join(overProc, ", "))
}

// extraOptions are those a caller may add (cri-api, Mount.mount_options): they
// can only take rights away.
var extraOptions = []string{"noexec", "nodev", "nosuid", "noatime", "nodiratime", "relatime"}

// extra checks them. A bind mount brings what is mounted below its source, and
// the plain option reaches only the top: where the kernel can (5.12), the OCI
// runtime is asked for the recursive one as well.
func (b *bundle) extra(m *runtime.Mount) ([]string, error) {
	var options []string
	for _, o := range m.GetMountOptions() {
		if !slices.Contains(extraOptions, o) {
			return nil, messages.Errorf(messages.Invalid, "mount %s: mount_options: %q: must be one of %s", m.GetContainerPath(), o, strings.Join(extraOptions, ", "))
		}
		options = append(options, o)
		if b.recursive() && strings.HasPrefix(o, "no") && !strings.HasSuffix(o, "time") {
			options = append(options, "r"+o)
		}
	}
	return options, nil
}

// recursive says whether an attribute can be set on a mount and all below it.
func (b *bundle) recursive() bool {
	return b.node.rro && !b.handler().NoRecursiveReadOnly
}

package bundles

import (
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupsPath is the cgroup of the container in the form its manager wants; the
// name carries the id and says whose it is.
func (b *Backend) cgroupsPath(r backends.BundleRequest) (string, error) {
	if r.CgroupParent == "" {
		return "", messages.Errorf(messages.Internal, "container %.12s has no parent cgroup", r.Container)
	}
	if b.config.CgroupManager == Systemd {
		slice := path.Base(r.CgroupParent)
		if !strings.HasSuffix(slice, ".slice") {
			return "", messages.Errorf(messages.Invalid,
				"cgroup_parent %q: must be a slice (name.slice) with the systemd cgroup manager: are the cgroup drivers of kubelet and runtime the same?", r.CgroupParent)
		}
		return slice + ":troupe:" + r.Container, nil
	}
	return path.Join("/", r.CgroupParent, "troupe-"+r.Container), nil
}

// resources are the cgroup limits, in v1 words: runtimes translate them.
func (b *bundle) resources() error {
	asked := b.r.Config.GetLinux().GetResources()
	out := b.spec.Linux.Resources
	out.CPU = cpu(asked)
	out.Memory = b.memory(asked)
	if limit := b.config.PidsLimit; limit > 0 && b.node.has("pids") {
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	var err error
	if out.HugepageLimits, err = b.hugepages(asked.GetHugepageLimits()); err != nil {
		return err
	}
	out.Unified, err = b.unified(asked.GetUnified())
	return err
}

// unifiedKey is a file of a controller in a cgroup v2 directory.
var unifiedKey = regexp.MustCompile(`^([a-z0-9_]+)(\.[a-zA-Z0-9_]+)+$`)

// unified are files of the container's cgroup v2, written as they are. Those of
// cgroup itself (cgroup.kill, cgroup.procs) are no resources.
func (b *bundle) unified(asked map[string]string) (map[string]string, error) {
	if len(asked) > 0 && !b.node.unified {
		return nil, messages.Errorf(messages.Invalid, "linux.resources.unified: this node has cgroup v1, which has no unified keys")
	}
	for key, value := range asked {
		match := unifiedKey.FindStringSubmatch(key)
		switch {
		case match == nil || match[1] == "cgroup" || strings.ContainsAny(value, "\x00"):
			return nil, messages.Errorf(messages.Invalid, "linux.resources.unified: %q: must be a file of a controller, like memory.high", key)
		case !b.node.has(match[1]):
			return nil, messages.Errorf(messages.Invalid, "linux.resources.unified: %q: this node has no %s controller (it has %s)", key, match[1], strings.Join(b.node.controllers, ", "))
		}
	}
	return asked, nil
}

func cpu(asked *runtime.LinuxContainerResources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: asked.GetCpusetCpus(), Mems: asked.GetCpusetMems()}
	if shares := uint64(max(asked.GetCpuShares(), 0)); shares > 0 {
		c.Shares = &shares
	}
	if quota := asked.GetCpuQuota(); quota != 0 {
		c.Quota = &quota
	}
	if period := uint64(max(asked.GetCpuPeriod(), 0)); period > 0 {
		c.Period = &period
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

// memory: without a word about swap, a memory limit is one of memory and swap
// together, so that a container with a limit does not swap.
func (b *bundle) memory(asked *runtime.LinuxContainerResources) *specs.LinuxMemory {
	limit, swap := asked.GetMemoryLimitInBytes(), asked.GetMemorySwapLimitInBytes()
	if limit == 0 && swap == 0 {
		return nil
	}
	var m specs.LinuxMemory
	if limit != 0 {
		m.Limit = &limit
	}
	if swap == 0 {
		swap = limit
	}
	if b.node.swap {
		m.Swap = &swap
	} else if asked.GetMemorySwapLimitInBytes() > 0 {
		b.log.Info("memory_swap_limit_in_bytes is left out: this kernel does not count swap")
	}
	return &m
}

// hugepages: the kubelet sends a limit of 0 for every page size the node has,
// also where no controller could enforce it. Where there is none (on a hybrid
// hierarchy hugetlb is v2's, and containers are in v1) a container starts
// without its limit, as with the other runtimes: the scheduler counts pages
// all the same, and a pod that does not start helps nobody.
func (b *bundle) hugepages(asked []*runtime.HugepageLimit) ([]specs.LinuxHugepageLimit, error) {
	var limits []specs.LinuxHugepageLimit
	for _, h := range asked {
		size, err := b.pageSize(h.GetPageSize())
		switch {
		case err == nil && !b.node.has("hugetlb"):
			b.log.Log(b.ctx, levelOf0(h.GetLimit()), "a hugepage limit is left out: this node has no hugetlb cgroup controller", "size", size, "limit", h.GetLimit())
		case err == nil:
			limits = append(limits, specs.LinuxHugepageLimit{Pagesize: size, Limit: h.GetLimit()})
		case h.GetLimit() > 0:
			return nil, err
		default:
			b.log.Debug("a hugepage limit of 0 is left out", "reason", err)
		}
	}
	return limits, nil
}

// levelOf0: a limit of 0 is what the kubelet always sends.
func levelOf0(limit uint64) slog.Level {
	if limit == 0 {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// pageSize writes a size as the kernel names its files ("2MB"), and checks that
// the node has such pages.
func (b *bundle) pageSize(text string) (string, error) {
	bytes, err := units.RAMInBytes(text)
	if err != nil || bytes < 1024 {
		return "", messages.Errorf(messages.Invalid, "hugepage_limits: page_size %q: must be like 2MB or 1GB", text)
	}
	if _, err := os.Stat(filepath.Join(b.node.hugepages, fmt.Sprintf("hugepages-%dkB", bytes/1024))); err != nil {
		return "", messages.Errorf(messages.Invalid, "hugepage_limits: this node has no pages of %s (it has %s)", text, b.pageSizes())
	}
	for _, unit := range []struct {
		name string
		size int64
	}{{"GB", units.GiB}, {"MB", units.MiB}} {
		if bytes%unit.size == 0 {
			return fmt.Sprint(bytes/unit.size, unit.name), nil
		}
	}
	return fmt.Sprint(bytes/units.KiB, "KB"), nil
}

func (b *bundle) pageSizes() string {
	names, _ := subdirs(b.node.hugepages)
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, "hugepages-")
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// errInUse: a container uses more than it is to get.
var errInUse = errors.New("it uses more memory than that")

// limitFiles are the kernel's files that hold what an update limits, by path.
func (c *container) limitFiles(r *specs.LinuxResources) map[string]bool {
	v2 := cgroups.IsCgroup2UnifiedMode()
	files := map[string]bool{}
	add := func(controller, v1, v2Name string) {
		name, dir := v1, c.cgroup.Path(controller)
		if v2 {
			name, dir = v2Name, c.cgroup.Path("")
		}
		if dir == "" || name == "" {
			return
		}
		if file := filepath.Join(dir, name); cgroups.PathExists(file) {
			files[file] = true
		}
	}
	if cpu := r.CPU; cpu != nil {
		if cpu.Shares != nil {
			add("cpu", "cpu.shares", "cpu.weight")
		}
		if cpu.Quota != nil || cpu.Period != nil {
			add("cpu", "cpu.cfs_period_us", "cpu.max")
			add("cpu", "cpu.cfs_quota_us", "cpu.max")
		}
		if cpu.Cpus != "" {
			add("cpuset", "cpuset.cpus", "cpuset.cpus")
		}
		if cpu.Mems != "" {
			add("cpuset", "cpuset.mems", "cpuset.mems")
		}
	}
	if r.Memory != nil {
		add("memory", "memory.limit_in_bytes", "memory.max")
		add("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
	}
	for _, h := range r.HugepageLimits {
		prefix := "hugetlb." + h.Pagesize
		add("hugetlb", prefix+".limit_in_bytes", prefix+".max")
		add("hugetlb", prefix+".rsvd.limit_in_bytes", prefix+".rsvd.max")
	}
	for key := range r.Unified {
		if !strings.Contains(key, "/") {
			add("", "", key)
		}
	}
	return files
}

// checkFiles refuses limits that this cgroup has no file for: some runtimes
// would leave them out without a word.
func (c *container) checkFiles(r *specs.LinuxResources) error {
	v2 := cgroups.IsCgroup2UnifiedMode()
	for key := range r.Unified {
		if !v2 || strings.Contains(key, "/") || !cgroups.PathExists(filepath.Join(c.cgroup.Path(""), key)) {
			return fmt.Errorf("unified key %q: its cgroup has no such file: %w", key, os.ErrNotExist)
		}
	}
	for _, h := range r.HugepageLimits {
		if h.Limit > 0 && len(c.limitFiles(&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{h}})) == 0 {
			return fmt.Errorf("hugepages of %s: its cgroup cannot limit them: %w", h.Pagesize, os.ErrNotExist)
		}
	}
	return nil
}

// readLimits fills in what each file holds.
func readLimits(files map[string]string) error {
	for file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the present limits: %w", err)
		}
		files[file] = strings.TrimSpace(string(data))
	}
	return nil
}

// writeLimits writes what each file is to hold. The kernel checks some against
// others (memory against memory and swap, quota against period and parent), so
// that the order matters, and which is right depends on the values: what is
// refused is tried again after the others.
func writeLimits(files map[string]string) error {
	left := slices.Sorted(maps.Keys(files))
	for {
		var refused []string
		var errs []error
		for _, file := range left {
			if err := writeLimit(file, files[file]); err != nil {
				refused, errs = append(refused, file), append(errs, err)
			}
		}
		if len(refused) == 0 {
			return nil
		}
		if len(refused) == len(left) {
			return errors.Join(errs...)
		}
		left = refused
	}
}

func writeLimit(file, value string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(data)) == value {
		return nil
	}
	for line := range strings.SplitSeq(value, "\n") { // one device or key a line; none is an empty cpuset
		if err := os.WriteFile(file, []byte(line+"\n"), 0); err != nil {
			return err
		}
	}
	return nil
}

// filled is r with the limits written out that are in files and not in r,
// because for a cgroup manager an absent limit is one not to touch.
func (c *container) filled(r *specs.LinuxResources, files map[string]string) *specs.LinuxResources {
	f := *r
	cpu, memory := specs.LinuxCPU{}, specs.LinuxMemory{}
	if r.CPU != nil {
		cpu = *r.CPU
	}
	if r.Memory != nil {
		memory = *r.Memory
	}
	for file := range files {
		switch filepath.Base(file) {
		case "cpu.shares", "cpu.weight":
			orElse(&cpu.Shares, 1024) // the kernel's default, as are the next
			f.CPU = &cpu
		case "cpu.cfs_quota_us", "cpu.max":
			orElse(&cpu.Quota, -1)
			orElse(&cpu.Period, 100_000)
			f.CPU = &cpu
		case "memory.limit_in_bytes", "memory.max":
			orElse(&memory.Limit, -1)
			if *memory.Limit == -1 && c.countsSwap() {
				orElse(&memory.Swap, -1)
			}
			f.Memory = &memory
		}
	}
	return &f
}

func orElse[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// countsSwap: there may be no file for swap, and then no value must be written.
func (c *container) countsSwap() bool {
	if cgroups.IsCgroup2UnifiedMode() {
		return true // "max" is ignored where there is no file
	}
	return cgroups.PathExists(filepath.Join(c.cgroup.Path("memory"), "memory.memsw.limit_in_bytes"))
}

// makeRoom has the kernel reclaim what a container uses above its new limit,
// and refuses the limit when that does not help. With cgroup v1 the kernel does
// so itself. With v2 it would kill processes instead, and a resize must not:
// who wants that lets the pod be made anew.
func (c *container) makeRoom(next *specs.LinuxResources) error {
	if next.Memory == nil || next.Memory.Limit == nil || *next.Memory.Limit <= 0 || !cgroups.IsCgroup2UnifiedMode() {
		return nil
	}
	limit, usage := *next.Memory.Limit, c.memoryUsage()
	if usage > limit {
		// An old kernel has no such file (before 5.19), and EAGAIN says that
		// less could be had: the usage tells.
		_ = os.WriteFile(filepath.Join(c.cgroup.Path(""), "memory.reclaim"), []byte(strconv.FormatInt(usage-limit, 10)), 0)
		usage = c.memoryUsage()
	}
	if usage > limit {
		return fmt.Errorf("memory limit %d: %w (%d bytes)", limit, errInUse, usage)
	}
	return nil
}

// memoryUsage is in bytes; 0 when it cannot be read.
func (c *container) memoryUsage() int64 {
	file := filepath.Join(c.cgroup.Path("memory"), "memory.usage_in_bytes")
	if cgroups.IsCgroup2UnifiedMode() {
		file = filepath.Join(c.cgroup.Path(""), "memory.current")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	usage, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return usage
}

// usesMore tells a limit that the kernel refused for being below what is used,
// which libcontainer says in words only.
func (c *container) usesMore(next *specs.LinuxResources) bool {
	return next.Memory != nil && next.Memory.Limit != nil && *next.Memory.Limit > 0 && c.memoryUsage() > *next.Memory.Limit
}

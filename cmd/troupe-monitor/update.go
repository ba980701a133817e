//go:build linux && cgo

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// update changes a container's limits, all or none.
//
// libcontainer's Set alone does not do that: what it writes back after an error
// are the limits of its old configuration, and a limit that was not there before
// (no memory limit, say) stays as it was half set. So the kernel's files are
// read before, and written back after an error. What the files held before the
// first update is kept in the container's record: an update without a limit
// gives it back, which is how the daemon takes an update back, also one that an
// earlier monitor did half.
func (m *monitor) update(ctx context.Context, r wire.Update) error {
	var next specs.LinuxResources
	if err := json.Unmarshal(r.Resources, &next); err != nil {
		return failf(wire.Invalid, "update container %s: decode the resources: %v", r.Key(), err)
	}
	c, err := m.mustFind(r.Ref)
	if err != nil {
		return err
	}
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	c.mu.Lock()
	alive, process := c.alive(), c.alive() && c.pidfd >= 0
	c.mu.Unlock()
	if !alive {
		return failf(wire.Precondition, "update container %s: it is %s: there is nothing to limit", r.Key(), c.state().Status)
	}
	if !process || c.engine == nil || c.cgroup == nil {
		return nil // its command could not be found, as Start will say
	}
	if err := c.setLimits(ctx, &next); err != nil {
		return c.limitError(err, &next)
	}
	return nil
}

// setLimits puts limits in force. Its caller has acquired the container.
func (c *container) setLimits(ctx context.Context, next *specs.LinuxResources) error {
	if err := c.checkFiles(next); err != nil {
		return err
	}
	files := c.limitFiles(next)
	if err := c.keepOriginals(files); err != nil {
		return err
	}
	before := maps.Clone(c.record.Originals)
	if err := readLimits(before); err != nil {
		return err
	}
	if err := c.makeRoom(next); err != nil {
		return err
	}
	lacking := map[string]string{} // limits that an earlier update set and this one has not
	for file, value := range c.record.Originals {
		if !files[file] {
			lacking[file] = value
		}
	}
	err := c.engine.update(ctx, c.filled(next, lacking))
	if err == nil {
		err = writeLimits(lacking)
	}
	if err == nil {
		return nil
	}
	// The bundle has the old limits until the daemon hears of success. With
	// systemd they are a unit's properties as well, which it would set again.
	if old := c.bundleLimits(); old != nil && c.bySystemd() {
		if back := c.engine.update(context.WithoutCancel(ctx), c.filled(old, before)); back != nil {
			c.log.Warn("the limits of a unit were not taken back by systemd; its cgroup's are", "err", back)
		}
	}
	if back := writeLimits(before); back != nil {
		c.log.Error("limits could not be taken back after an update failed", "update", err, "err", back)
		return errors.Join(err, fmt.Errorf("and what was set could not be taken back: %w", back))
	}
	return err
}

// bundleLimits are those of the daemon's bundle; nil when it cannot be read.
func (c *container) bundleLimits() *specs.LinuxResources {
	spec, err := c.m.readSpec(wire.Create{Ref: c.ref, Bundle: c.record.Bundle, Pause: c.record.Pause})
	if err != nil || spec.Linux.Resources == nil {
		return nil
	}
	r := spec.Linux.Resources
	return &specs.LinuxResources{CPU: r.CPU, Memory: r.Memory, HugepageLimits: r.HugepageLimits, Unified: r.Unified}
}

// bySystemd says whether the container's cgroup is a unit of systemd's.
func (c *container) bySystemd() bool {
	spec, err := c.m.readSpec(wire.Create{Ref: c.ref, Bundle: c.record.Bundle, Pause: c.record.Pause})
	return err == nil && c.m.bySystemd(spec.Linux.CgroupsPath)
}

// update sets the limits by libcontainer, whose own configuration stays as it
// is until all are set.
func (e *inProcess) update(_ context.Context, next *specs.LinuxResources) error {
	config := e.lc.Config()
	group, resources := *config.Cgroups, *config.Cgroups.Resources
	config.Cgroups, group.Resources = &group, &resources
	merge(&resources, next)
	// The device rules are left alone: a hook may have added to them (GPUs).
	resources.SkipDevices = true
	e.starting.Lock()
	defer e.starting.Unlock()
	err := e.lc.Set(config)
	resources.SkipDevices = false // it is libcontainer's own by now, which starts nothing with that
	return err
}

// update has the runtime set the limits. That there is no CPU quota is told to
// the cgroup itself: crun before 1.9 writes -1 as an unsigned number.
func (e *external) update(ctx context.Context, next *specs.LinuxResources) error {
	file, err := e.temporary("update-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(file)
	told, free := *next, cgroups.Resources{SkipDevices: true}
	if next.CPU != nil && next.CPU.Quota != nil && *next.CPU.Quota < 0 {
		cpu := *next.CPU
		cpu.Quota, cpu.Period = nil, nil
		told.CPU, free.CpuQuota = &cpu, -1
		if next.CPU.Period != nil {
			free.CpuPeriod = *next.CPU.Period
		}
	}
	if err := writeJSON(file, told); err != nil {
		return err
	}
	if err := e.run(ctx, nil, "update", "--resources", file, e.id()); err != nil || free.CpuQuota == 0 {
		return err
	}
	return e.c.cgroup.Set(&free)
}

// keepOriginals takes down, before anything is written, what files hold that no
// update has written yet.
func (c *container) keepOriginals(files map[string]bool) error {
	fresh := map[string]string{}
	for file := range files {
		if _, known := c.record.Originals[file]; !known {
			fresh[file] = ""
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := readLimits(fresh); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(c.record.Originals)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, fresh)
	record := c.record
	record.Originals = all
	if err := writeJSON(c.m.container(c.ref.Key()), record); err != nil {
		return fmt.Errorf("take down the present limits: %w", err)
	}
	c.record.Originals = all
	return nil
}

// merge puts the limits of an update in the place of those it may change. What
// else there is (devices, processes) stays.
func merge(r *cgroups.Resources, next *specs.LinuxResources) {
	r.CpuShares, r.CpuWeight, r.CpuQuota, r.CpuPeriod, r.CpusetCpus, r.CpusetMems = 0, 0, 0, 0, "", ""
	r.Memory, r.MemorySwap, r.HugetlbLimit, r.Unified = 0, 0, nil, maps.Clone(next.Unified)
	r.PidsLimit = nil // keep
	if cpu := next.CPU; cpu != nil {
		r.CpusetCpus, r.CpusetMems = cpu.Cpus, cpu.Mems
		if cpu.Shares != nil {
			r.CpuShares, r.CpuWeight = *cpu.Shares, cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
		}
		if cpu.Quota != nil {
			r.CpuQuota = *cpu.Quota
		}
		if cpu.Period != nil {
			r.CpuPeriod = *cpu.Period
		}
	}
	if memory := next.Memory; memory != nil {
		if memory.Limit != nil {
			r.Memory = *memory.Limit
		}
		if memory.Swap != nil {
			r.MemorySwap = *memory.Swap
		}
	}
	for _, h := range next.HugepageLimits {
		r.HugetlbLimit = append(r.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
}

// limitError says what a failed update means to who asked for it.
func (c *container) limitError(err error, next *specs.LinuxResources) error {
	kind := wire.Internal
	switch {
	case errors.Is(err, libcontainer.ErrNotRunning):
		kind = wire.Precondition
	case errors.Is(err, errInUse), errors.Is(err, unix.EBUSY), c.usesMore(next):
		kind = wire.Precondition
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EDOM):
		kind = wire.Invalid // this kernel's, or its parent cgroup's, bounds
	}
	return failf(kind, "update container %s: %v: its limits are as they were", c.ref.Key(), err)
}

package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Update limits a pod's cgroup if it is one of ours; one the kubelet asked for
// it has limited itself, before it tells us (cri-api, UpdatePodSandboxResources).
// What r does not limit is not limited; nil limits nothing.
func (b *Backend) Update(ctx context.Context, pod, parent string, r *runtime.LinuxContainerResources) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	if b.manager == Systemd || parent != b.own(pod) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var wanted []control
	for _, h := range b.hierarchies {
		if !h.foreign {
			wanted = append(wanted, h.controls(filepath.Join(h.mount, parent), r)...)
		}
	}
	var undo []control
	for _, c := range wanted {
		old, err := c.set()
		if err == nil {
			undo = append(undo, control{c.file, old})
			continue
		}
		err = fmt.Errorf("limit cgroup of pod %s: %w", pod, err)
		for i := len(undo) - 1; i >= 0; i-- {
			if _, back := undo[i].set(); back != nil {
				err = errors.Join(err, fmt.Errorf("and take back what was set: %w", back))
			}
		}
		return err
	}
	return nil
}

// control is a file of a cgroup and what it is to hold.
type control struct{ file, value string }

// set writes the value and gives the one before.
func (c control) set() (old string, err error) {
	data, err := os.ReadFile(c.file)
	if err != nil {
		return "", messages.Errorf(messages.Precondition, "%w: the controller is not on in this cgroup (v2 turns it on with the pod's first container)", err)
	}
	if old = strings.TrimSpace(string(data)); old == c.value {
		return old, nil
	}
	err = os.WriteFile(c.file, []byte(c.value+"\n"), 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		err = messages.Errorf(messages.Precondition, "write %q: the pod uses more now: %w", c.value, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		err = messages.Errorf(messages.Invalid, "write %q: %w", c.value, err)
	}
	return old, err
}

// controls are the files of one hierarchy with what they are to hold. A file
// that is not there and would only say "no limit" is left out.
func (h hierarchy) controls(dir string, r *runtime.LinuxContainerResources) (all []control) {
	add := func(name, value string, limits bool) {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil || limits && h.v2 { // on v1 each file is in one hierarchy only
			all = append(all, control{file, value})
		}
	}
	shares, quota, memory := r.GetCpuShares(), r.GetCpuQuota(), r.GetMemoryLimitInBytes()
	period := r.GetCpuPeriod()
	if period <= 0 {
		period = 100_000 // the kernel's
	}
	limited := quota > 0
	if h.v2 {
		weight := uint64(100) // the kernel's
		if shares > 0 {
			weight = cgroups.ConvertCPUSharesToCgroupV2Value(uint64(shares))
		}
		add("cpu.weight", strconv.FormatUint(weight, 10), shares > 0)
		add("cpu.max", orMax(quota)+" "+strconv.FormatInt(period, 10), limited)
		add("memory.max", orMax(memory), memory > 0)
		return all
	}
	if shares <= 0 {
		shares = 1024
	}
	if !limited {
		quota = -1
	}
	if memory <= 0 {
		memory = -1
	}
	add("cpu.shares", strconv.FormatInt(shares, 10), false)
	add("cpu.cfs_period_us", strconv.FormatInt(period, 10), false)
	add("cpu.cfs_quota_us", strconv.FormatInt(quota, 10), false)
	add("memory.limit_in_bytes", strconv.FormatInt(memory, 10), false)
	return all
}

func orMax(limit int64) string {
	if limit <= 0 {
		return "max"
	}
	return strconv.FormatInt(limit, 10)
}

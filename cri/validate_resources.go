package cri

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's bounds of a CPU bandwidth period and the least quota, in
// microseconds (Documentation/scheduler/sched-bwc.rst).
const (
	minPeriod = 1_000
	maxPeriod = 1_000_000
	minQuota  = 1_000
)

var (
	cpusetForm = regexp.MustCompile(`^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$`)
	// A key names one file of a cgroup: "memory.high". It must not be a path.
	unifiedForm = regexp.MustCompile(`^[a-z_]+(\.[A-Za-z0-9_-]+)+$`)
)

// validateResources refuses what no kernel would take; 0 is "not specified".
func validateResources(r *runtime.LinuxContainerResources) error {
	memory, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if swap > 0 && (memory == 0 || swap < memory) {
		return invalid("memory_swap_limit_in_bytes", "%d: limits memory and swap together, so it must not be below memory_limit_in_bytes (%d), which must be set", swap, memory)
	}
	return validateLimits(r)
}

// validateLimits looks at each field alone: those of an update may go with what
// is there already.
func validateLimits(r *runtime.LinuxContainerResources) error {
	period, quota := r.GetCpuPeriod(), r.GetCpuQuota()
	memory, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case period != 0 && (period < minPeriod || period > maxPeriod):
		return invalid("cpu_period", "%d: must be 0, or between %d and %d microseconds", period, minPeriod, maxPeriod)
	case quota < -1 || quota > 0 && quota < minQuota:
		return invalid("cpu_quota", "%d: must be -1 (no limit), 0, or at least %d microseconds", quota, minQuota)
	case r.GetCpuShares() < 0:
		return invalid("cpu_shares", "%d: must not be negative", r.GetCpuShares())
	case memory < 0:
		return invalid("memory_limit_in_bytes", "%d: must not be negative", memory)
	case swap < -1:
		return invalid("memory_swap_limit_in_bytes", "%d: must be -1 (no limit), 0, or a limit of memory and swap together", swap)
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return invalid("oom_score_adj", "%d: must be between -1000 and 1000", r.GetOomScoreAdj())
	case !cpusetForm.MatchString(r.GetCpusetCpus()):
		return invalid("cpuset_cpus", "%q: must be a list like 0-2,7", r.GetCpusetCpus())
	case !cpusetForm.MatchString(r.GetCpusetMems()):
		return invalid("cpuset_mems", "%q: must be a list like 0-1", r.GetCpusetMems())
	}
	for i, h := range r.GetHugepageLimits() {
		if h.GetPageSize() == "" {
			return invalid(fmt.Sprintf("hugepage_limits[%d].page_size", i), "is empty: must be like 2MB")
		}
	}
	return validateUnified(r.GetUnified())
}

func validateUnified(unified map[string]string) error {
	for key, value := range unified {
		if !unifiedForm.MatchString(key) {
			return invalid("unified", "%q: must be the name of a cgroup v2 file, like memory.high", key)
		}
		if strings.ContainsFunc(value, unicode.IsControl) {
			return invalid("unified", "%s: value %q must be one line of text", key, value)
		}
	}
	return nil
}

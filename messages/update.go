package messages

import (
	"maps"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainer changes the resources of a created or running container. It
// is answered when they are in force; after an error the old ones are. What
// Resources does not name keeps its value.
type UpdateContainer struct {
	Call
	Pod, Container string
	Resources      *runtime.LinuxContainerResources
	// ByPlugin: a plugin of the node asks; plugins do not hear of it.
	ByPlugin bool
}

// Answers says the reply is empty.
func (UpdateContainer) Answers(None) {}

// About implements Addressed.
func (m UpdateContainer) About() (pod, container string) { return m.Pod, m.Container }

// UpdatePod takes down the resources of a whole pod. The kubelet has changed
// the pod's cgroup already, unless the cgroup is ours.
type UpdatePod struct {
	Call
	Pod       string
	Overhead  *runtime.LinuxContainerResources // nil: as before
	Resources *runtime.LinuxContainerResources // nil: as before
}

// Answers says the reply is empty.
func (UpdatePod) Answers(None) {}

// About implements Addressed.
func (m UpdatePod) About() (pod, container string) { return m.Pod, "" }

// Resized is what a container with the resources old has after asked was
// applied. A field that is 0, "" or absent in asked is not specified and keeps
// its value (cri-api, LinuxContainerResources), page sizes and unified keys one
// by one. Two fields are special:
//
// oom_score_adj stays what it was: it belongs to processes, not to the cgroup,
// and a container has made of it what it likes by now (CRI-O and containerd do
// not apply it either).
//
// A memory limit alone moves a limit of memory and swap that has become too
// low for it along, so that the container does not begin to swap.
func Resized(old, asked *runtime.LinuxContainerResources) *runtime.LinuxContainerResources {
	r := &runtime.LinuxContainerResources{}
	if old != nil {
		r = proto.Clone(old).(*runtime.LinuxContainerResources)
	}
	setIf(&r.CpuPeriod, asked.GetCpuPeriod())
	setIf(&r.CpuQuota, asked.GetCpuQuota())
	setIf(&r.CpuShares, asked.GetCpuShares())
	setIf(&r.CpusetCpus, asked.GetCpusetCpus())
	setIf(&r.CpusetMems, asked.GetCpusetMems())
	setIf(&r.MemoryLimitInBytes, asked.GetMemoryLimitInBytes())
	setIf(&r.MemorySwapLimitInBytes, asked.GetMemorySwapLimitInBytes())
	if swap := r.MemorySwapLimitInBytes; asked.GetMemorySwapLimitInBytes() == 0 && swap > 0 && swap < r.MemoryLimitInBytes {
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	for _, h := range asked.GetHugepageLimits() {
		r.HugepageLimits = withPages(r.HugepageLimits, h)
	}
	if len(asked.GetUnified()) > 0 {
		unified := maps.Clone(r.Unified)
		if unified == nil {
			unified = map[string]string{}
		}
		maps.Copy(unified, asked.GetUnified())
		r.Unified = unified
	}
	return r
}

func setIf[T comparable](field *T, value T) {
	var none T
	if value != none {
		*field = value
	}
}

// withPages replaces or adds the limit of a page size.
func withPages(limits []*runtime.HugepageLimit, h *runtime.HugepageLimit) []*runtime.HugepageLimit {
	for i, l := range limits {
		if l.GetPageSize() == h.GetPageSize() {
			limits[i] = h
			return limits
		}
	}
	return append(limits, h)
}

// Together is what a pod may use: the sum of its containers' resources and of
// its overhead. What is not limited in resources is not limited in the sum.
func Together(resources, overhead *runtime.LinuxContainerResources) *runtime.LinuxContainerResources {
	if resources == nil {
		return nil
	}
	sum := proto.Clone(resources).(*runtime.LinuxContainerResources)
	sum.OomScoreAdj, sum.HugepageLimits, sum.Unified = 0, nil, nil
	sum.CpuShares = plus(sum.CpuShares, overhead.GetCpuShares())
	sum.MemoryLimitInBytes = plus(sum.MemoryLimitInBytes, overhead.GetMemoryLimitInBytes())
	sum.MemorySwapLimitInBytes = 0 // it goes with the memory limit
	if period := overhead.GetCpuPeriod(); period == 0 || period == sum.CpuPeriod || sum.CpuPeriod == 0 {
		sum.CpuQuota = plus(sum.CpuQuota, overhead.GetCpuQuota())
	} else { // the same share of a CPU, in the other period
		sum.CpuQuota = plus(sum.CpuQuota, overhead.GetCpuQuota()*sum.CpuPeriod/period)
	}
	return sum
}

// plus adds to a limit, if there is one.
func plus(limit, more int64) int64 {
	if limit <= 0 || more <= 0 {
		return limit
	}
	return limit + more
}

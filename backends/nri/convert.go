package nri

import (
	"encoding/json"
	"os"
	"strings"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podSandbox(p backends.PluginPod) *api.PodSandbox {
	m, linux := p.Config.GetMetadata(), p.Config.GetLinux()
	pod := &api.PodSandbox{
		Id: p.ID, Name: m.GetName(), Uid: m.GetUid(), Namespace: m.GetNamespace(),
		Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(), RuntimeHandler: p.Handler,
		Pid: uint32(p.Pid), Ips: p.IPs,
		Linux: &api.LinuxPodSandbox{
			PodOverhead: fromCRI(linux.GetOverhead()), PodResources: fromCRI(linux.GetResources()),
			CgroupParent: linux.GetCgroupParent(), CgroupsPath: p.Cgroup,
		},
	}
	ns := p.Namespaces
	for _, of := range []struct{ kind, path string }{
		{"network", ns.Network}, {"ipc", ns.IPC}, {"uts", ns.UTS}, {"pid", ns.PID}, {"user", ns.User},
	} {
		if of.path != "" {
			pod.Linux.Namespaces = append(pod.Linux.Namespaces, &api.LinuxNamespace{Type: of.kind, Path: of.path})
		}
	}
	return pod
}

var states = map[messages.ContainerState]api.ContainerState{
	messages.ContainerCreating: api.ContainerState_CONTAINER_UNKNOWN,
	messages.ContainerCreated:  api.ContainerState_CONTAINER_CREATED,
	messages.ContainerStarting: api.ContainerState_CONTAINER_CREATED,
	messages.ContainerRunning:  api.ContainerState_CONTAINER_RUNNING,
	messages.ContainerStopping: api.ContainerState_CONTAINER_RUNNING,
	messages.ContainerExited:   api.ContainerState_CONTAINER_STOPPED,
	messages.ContainerRemoving: api.ContainerState_CONTAINER_STOPPED,
}

// container is a container with its spec: as its bundle has it now, or as it
// was told of last when the bundle has gone.
func (b *Backend) container(c backends.PluginContainer) *api.Container {
	made := bare(c)
	if spec, err := readSpec(b.config.Spec(c.Pod.ID, c.ID)); err == nil {
		fill(made, spec)
	} else if last := b.known.whole(c.ID); last != nil {
		made.Args, made.Env, made.Mounts, made.Hooks = last.Args, last.Env, last.Mounts, last.Hooks
		made.Linux, made.Rlimits, made.User = last.Linux, last.Rlimits, last.User
	}
	return made
}

// readSpec fails for a container whose bundle is not there (yet).
func readSpec(path string) (*specs.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{}
	return spec, json.Unmarshal(data, spec)
}

// bare is a container without its spec.
func bare(c backends.PluginContainer) *api.Container {
	made := &api.Container{
		Id: c.ID, PodSandboxId: c.Pod.ID, Name: c.Config.GetMetadata().GetName(), State: states[c.State],
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(), Pid: uint32(c.Process.Pid),
		CreatedAt: nanos(c.CreatedAt), StartedAt: nanos(c.Process.StartedAt), FinishedAt: nanos(c.Process.ExitedAt),
		ExitCode: c.Process.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		Image: &api.Image{Name: c.Config.GetImage().GetUserSpecifiedImage()},
		Linux: &api.LinuxContainer{Resources: fromCRI(c.Config.GetLinux().GetResources())},
	}
	if made.Image.Name == "" {
		made.Image.Name = c.Config.GetImage().GetImage()
	}
	if profile := c.Config.GetLinux().GetSecurityContext().GetSeccomp(); profile != nil {
		made.Linux.SeccompProfile = &api.SecurityProfile{
			ProfileType:  api.SecurityProfile_ProfileType(profile.GetProfileType()), // the same numbers as CRI's
			LocalhostRef: profile.GetLocalhostRef(),
		}
	}
	for _, d := range c.Config.GetCDIDevices() {
		made.CDIDevices = append(made.CDIDevices, &api.CDIDevice{Name: d.GetName()})
	}
	return made
}

// nanos is 0 for no time at all.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// fill adds what only the spec says.
func fill(c *api.Container, spec *specs.Spec) {
	c.Mounts, c.Hooks = api.FromOCIMounts(spec.Mounts), api.FromOCIHooks(spec.Hooks)
	if p := spec.Process; p != nil {
		c.Args, c.Env = p.Args, p.Env
		for _, l := range p.Rlimits {
			c.Rlimits = append(c.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
		c.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		c.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		c.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		c.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
	}
	if l := spec.Linux; l != nil {
		c.Linux.Namespaces, c.Linux.Devices = api.FromOCILinuxNamespaces(l.Namespaces), api.FromOCILinuxDevices(l.Devices)
		c.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
		c.Linux.CgroupsPath, c.Linux.Sysctl = l.CgroupsPath, l.Sysctl
		if l.Seccomp != nil {
			c.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
		}
		c.Linux.NetDevices = api.FromOCILinuxNetDevices(l.NetDevices)
	}
}

// fromCRI leaves out what is not specified.
func fromCRI(r *runtime.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	made := &api.LinuxResources{
		Memory:  &api.LinuxMemory{Limit: some(r.MemoryLimitInBytes), Swap: some(r.MemorySwapLimitInBytes)},
		Cpu:     &api.LinuxCPU{Quota: some(r.CpuQuota), Cpus: r.CpusetCpus, Mems: r.CpusetMems},
		Unified: r.Unified,
	}
	if r.CpuShares != 0 {
		made.Cpu.Shares = api.UInt64(uint64(r.CpuShares))
	}
	if r.CpuPeriod != 0 {
		made.Cpu.Period = api.UInt64(uint64(r.CpuPeriod))
	}
	for _, h := range r.HugepageLimits {
		made.HugepageLimits = append(made.HugepageLimits, &api.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return made
}

func some(v int64) *api.OptionalInt64 {
	if v == 0 {
		return nil
	}
	return api.Int64(v)
}

// toCRI are resources as an update can have them. What it cannot change is an
// error: a plugin must not believe that it has.
func toCRI(r *api.LinuxResources) (*runtime.LinuxContainerResources, error) {
	if r == nil {
		return nil, nil
	}
	if name := unchangeable(r); name != "" {
		return nil, messages.Errorf(messages.Unsupported, "container resources: %s cannot be changed after the container was created", name)
	}
	return cri(r), nil
}

// cri leaves out what CRI has no word for.
func cri(r *api.LinuxResources) *runtime.LinuxContainerResources {
	made := &runtime.LinuxContainerResources{
		MemoryLimitInBytes: r.GetMemory().GetLimit().GetValue(), MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		CpuShares: int64(r.GetCpu().GetShares().GetValue()), CpuQuota: r.GetCpu().GetQuota().GetValue(),
		CpuPeriod: int64(r.GetCpu().GetPeriod().GetValue()), CpusetCpus: r.GetCpu().GetCpus(), CpusetMems: r.GetCpu().GetMems(),
		Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		made.HugepageLimits = append(made.HugepageLimits, &runtime.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return made
}

func unchangeable(r *api.LinuxResources) string {
	var names []string
	for name, set := range map[string]bool{
		"memory reservation": r.GetMemory().GetReservation() != nil,
		"kernel memory":      r.GetMemory().GetKernel() != nil || r.GetMemory().GetKernelTcp() != nil,
		"swappiness":         r.GetMemory().GetSwappiness() != nil,
		"realtime CPU":       r.GetCpu().GetRealtimePeriod() != nil || r.GetCpu().GetRealtimeRuntime() != nil,
		"block I/O class":    r.GetBlockioClass() != nil,
		"RDT class":          r.GetRdtClass() != nil,
		"number of pids":     r.GetPids() != nil,
		"devices":            len(r.GetDevices()) > 0,
	} {
		if set {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

package nri

import (
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
)

// editor changes a spec, one thing at a time, for the library's generator. The
// spec is one of ours: process and linux.resources are there.
type editor struct{ spec *specs.Spec }

var _ generate.UnderlyingGenerator = (*editor)(nil)

func (e *editor) Spec() *specs.Spec { return e.spec }

func (e *editor) hooks() *specs.Hooks {
	if e.spec.Hooks == nil {
		e.spec.Hooks = &specs.Hooks{}
	}
	return e.spec.Hooks
}

func (e *editor) cpu() *specs.LinuxCPU {
	if e.spec.Linux.Resources.CPU == nil {
		e.spec.Linux.Resources.CPU = &specs.LinuxCPU{}
	}
	return e.spec.Linux.Resources.CPU
}

func (e *editor) memory() *specs.LinuxMemory {
	if e.spec.Linux.Resources.Memory == nil {
		e.spec.Linux.Resources.Memory = &specs.LinuxMemory{}
	}
	return e.spec.Linux.Resources.Memory
}

func (e *editor) AddAnnotation(key, value string) {
	if e.spec.Annotations == nil {
		e.spec.Annotations = map[string]string{}
	}
	e.spec.Annotations[key] = value
}

func (e *editor) RemoveAnnotation(key string) { delete(e.spec.Annotations, key) }

func (e *editor) AddDevice(device specs.LinuxDevice) {
	e.RemoveDevice(device.Path)
	e.spec.Linux.Devices = append(e.spec.Linux.Devices, device)
}

func (e *editor) RemoveDevice(path string) {
	e.spec.Linux.Devices = slices.DeleteFunc(e.spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (e *editor) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := e.spec.Linux.Resources
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

// AddOrReplaceLinuxNamespace takes a namespace by the specification's name.
func (e *editor) AddOrReplaceLinuxNamespace(kind, path string) error {
	known := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.UTSNamespace, specs.MountNamespace,
		specs.IPCNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	}
	if !slices.Contains(known, specs.LinuxNamespaceType(kind)) {
		return messages.Errorf(messages.Invalid, "namespace %q is not known", kind)
	}
	_ = e.RemoveLinuxNamespace(kind)
	e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
	return nil
}

func (e *editor) RemoveLinuxNamespace(kind string) error {
	e.spec.Linux.Namespaces = slices.DeleteFunc(e.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == kind })
	return nil
}

// AddPreStartHook adds to the list that libcontainer and crun still run.
func (e *editor) AddPreStartHook(h specs.Hook) {
	//lint:ignore SA1019 deprecated, and a plugin may still ask for it
	e.hooks().Prestart = append(e.hooks().Prestart, h)
}

func (e *editor) AddPostStartHook(h specs.Hook) {
	e.hooks().Poststart = append(e.hooks().Poststart, h)
}

func (e *editor) AddPostStopHook(h specs.Hook) { e.hooks().Poststop = append(e.hooks().Poststop, h) }

func (e *editor) AddProcessEnv(name, value string) {
	p := e.spec.Process
	p.Env = slices.DeleteFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	p.Env = append(p.Env, name+"="+value)
}

func (e *editor) ClearProcessEnv() { e.spec.Process.Env = nil }

func (e *editor) SetProcessArgs(args []string) { e.spec.Process.Args = args }

func (e *editor) SetProcessOOMScoreAdj(adj int) { e.spec.Process.OOMScoreAdj = &adj }

func (e *editor) Mounts() []specs.Mount { return e.spec.Mounts }

func (e *editor) AddMount(m specs.Mount) { e.spec.Mounts = append(e.spec.Mounts, m) }

func (e *editor) ClearMounts() { e.spec.Mounts = nil }

func (e *editor) RemoveMount(at string) {
	e.spec.Mounts = slices.DeleteFunc(e.spec.Mounts, func(m specs.Mount) bool { return m.Destination == at })
}

func (e *editor) SetLinuxRootPropagation(mode string) error {
	e.spec.Linux.RootfsPropagation = mode
	return nil
}

func (e *editor) AddLinuxSysctl(key, value string) {
	if e.spec.Linux.Sysctl == nil {
		e.spec.Linux.Sysctl = map[string]string{}
	}
	e.spec.Linux.Sysctl[key] = value
}

func (e *editor) RemoveLinuxSysctl(key string) { delete(e.spec.Linux.Sysctl, key) }

func (e *editor) SetLinuxCgroupsPath(path string) { e.spec.Linux.CgroupsPath = path }

func (e *editor) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := e.spec.Linux.Resources
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(l specs.LinuxHugepageLimit) bool { return l.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (e *editor) AddLinuxResourcesUnified(key, value string) {
	r := e.spec.Linux.Resources
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified[key] = value
}

func (e *editor) SetLinuxResourcesCPUCpus(v string) { e.cpu().Cpus = v }

func (e *editor) SetLinuxResourcesCPUMems(v string) { e.cpu().Mems = v }

func (e *editor) SetLinuxResourcesCPUPeriod(v uint64) { e.cpu().Period = &v }

func (e *editor) SetLinuxResourcesCPUQuota(v int64) { e.cpu().Quota = &v }

func (e *editor) SetLinuxResourcesCPURealtimePeriod(v uint64) { e.cpu().RealtimePeriod = &v }

func (e *editor) SetLinuxResourcesCPURealtimeRuntime(v int64) { e.cpu().RealtimeRuntime = &v }

func (e *editor) SetLinuxResourcesCPUShares(v uint64) { e.cpu().Shares = &v }

func (e *editor) SetLinuxResourcesMemoryLimit(v int64) { e.memory().Limit = &v }

func (e *editor) SetLinuxResourcesMemorySwap(v int64) { e.memory().Swap = &v }

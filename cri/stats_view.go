package cri

import (
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func containerStats(m *measured) *runtime.ContainerStats {
	c := m.container
	stats := &runtime.ContainerStats{
		Attributes: &runtime.ContainerAttributes{
			Id: c.ID, Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		},
		WritableLayer: writableLayer(m.disk),
	}
	if m.runs {
		stats.Cpu, stats.Memory = cpuUsage(&m.usage), memoryUsage(&m.usage)
		stats.Swap, stats.Io = swapUsage(&m.usage), ioUsage(&m.usage)
	}
	return stats
}

func podStats(m *measuredPod) *runtime.PodSandboxStats {
	p := m.pod
	linux := &runtime.LinuxPodSandboxStats{Network: networkUsage(m.network)}
	for i := range m.containers {
		linux.Containers = append(linux.Containers, containerStats(&m.containers[i]))
	}
	if !m.usage.At.IsZero() {
		linux.Cpu, linux.Memory, linux.Io = cpuUsage(&m.usage), memoryUsage(&m.usage), ioUsage(&m.usage)
		linux.Process = &runtime.ProcessUsage{Timestamp: nanos(m.usage.At), ProcessCount: value(m.usage.Processes.Count)}
	}
	return &runtime.PodSandboxStats{
		Attributes: &runtime.PodSandboxAttributes{
			Id: p.ID, Metadata: p.Config.GetMetadata(), Labels: p.Config.GetLabels(), Annotations: p.Config.GetAnnotations(),
		},
		Linux: linux,
	}
}

// value leaves out what is not known: a 0 would be a measurement.
func value(a messages.Amount) *runtime.UInt64Value {
	if !a.Known {
		return nil
	}
	return &runtime.UInt64Value{Value: a.N}
}

func exactly(n uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: n} }

func cpuUsage(u *messages.Usage) *runtime.CpuUsage {
	return &runtime.CpuUsage{
		Timestamp:            nanos(u.At),
		UsageCoreNanoSeconds: value(u.CPU.Time),
		UsageNanoCores:       value(u.CPU.NanoCores),
		Psi:                  psi(u.CPU.Pressure),
	}
}

func memoryUsage(u *messages.Usage) *runtime.MemoryUsage {
	return &runtime.MemoryUsage{
		Timestamp:       nanos(u.At),
		WorkingSetBytes: value(u.Memory.WorkingSet),
		AvailableBytes:  value(u.Memory.Available),
		UsageBytes:      value(u.Memory.Current),
		RssBytes:        value(u.Memory.RSS),
		PageFaults:      value(u.Memory.Faults),
		MajorPageFaults: value(u.Memory.MajorFaults),
		Psi:             psi(u.Memory.Pressure),
	}
}

// swapUsage is absent on a kernel that does not account swap.
func swapUsage(u *messages.Usage) *runtime.SwapUsage {
	if !u.Memory.Swap.Known {
		return nil
	}
	return &runtime.SwapUsage{
		Timestamp:          nanos(u.At),
		SwapAvailableBytes: value(u.Memory.SwapAvailable),
		SwapUsageBytes:     value(u.Memory.Swap),
	}
}

// ioUsage holds only pressure, so it is absent without.
func ioUsage(u *messages.Usage) *runtime.IoUsage {
	if !u.IO.Pressure.Known {
		return nil
	}
	return &runtime.IoUsage{Timestamp: nanos(u.At), Psi: psi(u.IO.Pressure)}
}

func psi(p messages.Pressure) *runtime.PsiStats {
	if !p.Known {
		return nil
	}
	return &runtime.PsiStats{Some: psiData(p.Some), Full: psiData(p.Full)}
}

func psiData(s messages.Stall) *runtime.PsiData {
	return &runtime.PsiData{Total: s.Total, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
}

func writableLayer(d messages.DiskUsage) *runtime.FilesystemUsage {
	if !d.Bytes.Known {
		return nil
	}
	return &runtime.FilesystemUsage{
		Timestamp:  nanos(d.At),
		FsId:       &runtime.FilesystemIdentifier{Mountpoint: d.Mountpoint},
		UsedBytes:  value(d.Bytes),
		InodesUsed: value(d.Inodes),
	}
}

// networkUsage is absent for a pod on the node's network, whose traffic cannot
// be told from the node's (as containerd has it), and for a pod that has lost
// its namespace.
func networkUsage(n *messages.NetworkUsage) *runtime.NetworkUsage {
	if n == nil || len(n.Interfaces) == 0 {
		return nil
	}
	usage := &runtime.NetworkUsage{Timestamp: nanos(n.At), DefaultInterface: interfaceUsage(n.Interfaces[0])}
	for _, i := range n.Interfaces[1:] {
		usage.Interfaces = append(usage.Interfaces, interfaceUsage(i))
	}
	return usage
}

func interfaceUsage(i messages.InterfaceUsage) *runtime.NetworkInterfaceUsage {
	return &runtime.NetworkInterfaceUsage{
		Name: printable(i.Name), RxBytes: exactly(i.RxBytes), RxErrors: exactly(i.RxErrors), TxBytes: exactly(i.TxBytes), TxErrors: exactly(i.TxErrors),
	}
}

// sum adds up a pod's containers, where nothing was measured of the pod itself.
// Pressure cannot be added, and what is available to one is not to another.
func sum(containers []measured) (total messages.Usage) {
	for i := range containers {
		u := &containers[i].usage
		total.At, total.Kept = u.At, u.Kept
		for _, pair := range []struct{ to, from *messages.Amount }{
			{&total.CPU.Time, &u.CPU.Time},
			{&total.CPU.NanoCores, &u.CPU.NanoCores},
			{&total.Memory.Current, &u.Memory.Current},
			{&total.Memory.WorkingSet, &u.Memory.WorkingSet},
			{&total.Memory.RSS, &u.Memory.RSS},
			{&total.Memory.Faults, &u.Memory.Faults},
			{&total.Memory.MajorFaults, &u.Memory.MajorFaults},
			{&total.Processes.Count, &u.Processes.Count},
		} {
			*pair.to = pair.to.Plus(*pair.from)
		}
	}
	return total
}

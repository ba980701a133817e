package cri

import (
	"strconv"
	"time"

	"github.com/troupe-run/troupe/messages"
)

// metricGroups are all metrics there are, in the groups that crio.conf(5),
// included_pod_metrics names; the first is always on. Names and meanings are
// cAdvisor's. A value that a kernel does not have is left out.
var metricGroups = []struct {
	name    string
	metrics []metric
}{
	{"", []metric{{
		name: "container_last_seen", help: "When the container was last seen, in seconds since 1970.", of: ofContainers,
		read: func(e *emitter) { e.add(uint64(max(e.usage.At.Unix(), 0))) },
	}}},
	{"cpu", cpuMetrics},
	{"memory", memoryMetrics},
	{"memory_extra", moreMemoryMetrics},
	{"network", networkMetrics},
	{"oom", []metric{{
		name: "container_oom_events_total", help: "Processes that the kernel killed for want of memory.", counter: true, of: ofBoth,
		read: func(e *emitter) { e.amount(e.usage.Memory.OOMKills) },
	}}},
	{"process", processMetrics},
	{"spec", specMetrics},
	{"disk", diskMetrics},
	{"diskIO", diskIOMetrics},
	{"hugetlb", hugetlbMetrics},
	{"pressure", pressureMetrics},
}

// gauge is a row whose value is one amount.
func gauge(of subjects, name, help string, get func(*messages.Usage) messages.Amount) metric {
	return metric{name: name, help: help, of: of, read: func(e *emitter) { e.amount(get(e.usage)) }}
}

func counter(of subjects, name, help string, get func(*messages.Usage) messages.Amount) metric {
	m := gauge(of, name, help, get)
	m.counter = true
	return m
}

// counterOfSeconds is a counter whose amount is in nanoseconds.
func counterOfSeconds(name, help string, get func(*messages.Usage) messages.Amount) metric {
	return metric{name: name, help: help, counter: true, of: ofBoth, read: func(e *emitter) { e.seconds(get(e.usage)) }}
}

var cpuMetrics = []metric{
	counterOfSeconds("container_cpu_user_seconds_total", "CPU time in user mode, in seconds.",
		func(u *messages.Usage) messages.Amount { return u.CPU.User }),
	counterOfSeconds("container_cpu_system_seconds_total", "CPU time in the kernel, in seconds.",
		func(u *messages.Usage) messages.Amount { return u.CPU.System }),
	{
		name: "container_cpu_usage_seconds_total", help: "CPU time, in seconds.",
		labels: []string{"cpu"}, counter: true, of: ofBoth,
		read: func(e *emitter) { e.seconds(e.usage.CPU.Time, "total") },
	},
	limited("container_cpu_cfs_periods_total", "Periods in which the CPU quota was enforced.",
		func(u *messages.Usage) messages.Amount { return u.CPU.Periods }),
	limited("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up.",
		func(u *messages.Usage) messages.Amount { return u.CPU.ThrottledPeriods }),
	limited("container_cpu_cfs_throttled_seconds_total", "Time spent waiting for CPU quota, in seconds.",
		func(u *messages.Usage) messages.Amount {
			return messages.Amount{N: u.CPU.ThrottledTime.N / uint64(time.Second), Known: u.CPU.ThrottledTime.Known}
		}),
}

// limited is a counter of what is under a CPU quota; there is nothing to count
// without one (as in cAdvisor).
func limited(name, help string, get func(*messages.Usage) messages.Amount) metric {
	return metric{name: name, help: help, counter: true, of: ofBoth, read: func(e *emitter) {
		if e.usage.CPU.Quota.Known {
			e.amount(get(e.usage))
		}
	}}
}

var networkMetrics = []metric{
	network("container_network_receive_bytes_total", "Bytes received.", func(i messages.InterfaceUsage) uint64 { return i.RxBytes }),
	network("container_network_receive_packets_total", "Packets received.", func(i messages.InterfaceUsage) uint64 { return i.RxPackets }),
	network("container_network_receive_packets_dropped_total", "Packets dropped while receiving.", func(i messages.InterfaceUsage) uint64 { return i.RxDropped }),
	network("container_network_receive_errors_total", "Errors while receiving.", func(i messages.InterfaceUsage) uint64 { return i.RxErrors }),
	network("container_network_transmit_bytes_total", "Bytes sent.", func(i messages.InterfaceUsage) uint64 { return i.TxBytes }),
	network("container_network_transmit_packets_total", "Packets sent.", func(i messages.InterfaceUsage) uint64 { return i.TxPackets }),
	network("container_network_transmit_packets_dropped_total", "Packets dropped while sending.", func(i messages.InterfaceUsage) uint64 { return i.TxDropped }),
	network("container_network_transmit_errors_total", "Errors while sending.", func(i messages.InterfaceUsage) uint64 { return i.TxErrors }),
}

func network(name, help string, get func(messages.InterfaceUsage) uint64) metric {
	return metric{name: name, help: help, labels: []string{"interface"}, counter: true, of: ofPods, read: func(e *emitter) {
		if e.network == nil {
			return
		}
		for _, i := range e.network.Interfaces {
			e.add(get(i), printable(i.Name))
		}
	}}
}

var processMetrics = []metric{
	gauge(ofContainers, "container_processes", "Processes.",
		func(u *messages.Usage) messages.Amount { return u.Processes.Count }),
	gauge(ofContainers, "container_threads", "Threads of all processes.",
		func(u *messages.Usage) messages.Amount { return u.Processes.Threads }),
	gauge(ofContainers, "container_threads_max", "Most threads allowed; 0: no limit.",
		func(u *messages.Usage) messages.Amount { return messages.Measured(u.Processes.ThreadsMax.N) }),
	gauge(ofContainers, "container_file_descriptors", "Open file descriptors of all processes.",
		func(u *messages.Usage) messages.Amount { return u.Processes.FileDescriptors }),
	gauge(ofContainers, "container_sockets", "Open sockets of all processes.",
		func(u *messages.Usage) messages.Amount { return u.Processes.Sockets }),
	{
		name: "container_ulimits_soft", help: "Soft limits of the container's first process.", labels: []string{"ulimit"}, of: ofContainers,
		read: func(e *emitter) { e.amount(e.usage.Processes.OpenFilesLimit, "max_open_files") },
	},
}

// specMetrics are the limits as they stand in the cgroup. No limit is 0, as in
// cAdvisor, but for the CPU quota, which is left out then.
var specMetrics = []metric{
	gauge(ofContainers, "container_spec_cpu_period", "CPU period, in microseconds.",
		func(u *messages.Usage) messages.Amount { return u.CPU.Period }),
	gauge(ofContainers, "container_spec_cpu_quota", "CPU quota in a period, in microseconds.",
		func(u *messages.Usage) messages.Amount { return u.CPU.Quota }),
	gauge(ofContainers, "container_spec_cpu_shares", "CPU shares.",
		func(u *messages.Usage) messages.Amount { return u.CPU.Shares }),
	gauge(ofContainers, "container_spec_memory_limit_bytes", "Memory limit, in bytes; 0: none.",
		func(u *messages.Usage) messages.Amount { return messages.Measured(u.Memory.Limit.N) }),
	gauge(ofContainers, "container_spec_memory_reservation_limit_bytes", "Memory that is protected from reclaim, in bytes; 0: none.",
		func(u *messages.Usage) messages.Amount { return messages.Measured(u.Memory.Reservation.N) }),
	gauge(ofContainers, "container_spec_memory_swap_limit_bytes", "Limit of memory and swap together, in bytes; 0: none.",
		func(u *messages.Usage) messages.Amount {
			if !u.Memory.SwapLimit.Known || !u.Memory.Limit.Known {
				return messages.Measured(0)
			}
			return u.Memory.SwapLimit.Plus(u.Memory.Limit)
		}),
	{
		name: "container_start_time_seconds", help: "When the container was started, in seconds since 1970.", of: ofContainers,
		read: func(e *emitter) { e.add(uint64(max(e.container.StartedAt.Unix(), 0))) },
	},
}

const fsUsage = "container_fs_usage_bytes"

var diskMetrics = []metric{
	disk("container_fs_inodes_free", "Free inodes of the file system that the container writes to.",
		func(d *messages.DiskUsage) messages.Amount { return messages.Measured(d.InodesFree) }),
	disk("container_fs_inodes_total", "Inodes of the file system that the container writes to.",
		func(d *messages.DiskUsage) messages.Amount { return messages.Measured(d.InodesTotal) }),
	disk("container_fs_limit_bytes", "Size of the file system that the container writes to, in bytes.",
		func(d *messages.DiskUsage) messages.Amount { return messages.Measured(d.Capacity) }),
	disk(fsUsage, "What the container has written to its root file system, in bytes.",
		func(d *messages.DiskUsage) messages.Amount { return d.Bytes }),
}

func disk(name, help string, get func(*messages.DiskUsage) messages.Amount) metric {
	return metric{name: name, help: help, labels: []string{"device"}, of: ofContainers, read: func(e *emitter) {
		if e.disk.Mountpoint != "" {
			e.amount(get(e.disk), printable(e.disk.Device))
		}
	}}
}

var diskIOMetrics = []metric{
	deviceIO("container_fs_reads_bytes_total", "Bytes read from block devices.", func(d messages.DeviceIO) uint64 { return d.ReadBytes }),
	deviceIO("container_fs_reads_total", "Reads from block devices.", func(d messages.DeviceIO) uint64 { return d.Reads }),
	deviceIO("container_fs_writes_bytes_total", "Bytes written to block devices.", func(d messages.DeviceIO) uint64 { return d.WriteBytes }),
	deviceIO("container_fs_writes_total", "Writes to block devices.", func(d messages.DeviceIO) uint64 { return d.Writes }),
	{
		name: "container_blkio_device_usage_total", help: "Bytes read from, written to and discarded on block devices.",
		labels: []string{"device", "major", "minor", "operation"}, counter: true, of: ofBoth,
		read: func(e *emitter) {
			for _, d := range e.usage.IO.Devices {
				major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
				e.add(d.ReadBytes, d.Device, major, minor, "Read")
				e.add(d.WriteBytes, d.Device, major, minor, "Write")
				e.add(d.DiscardBytes, d.Device, major, minor, "Discard")
			}
		},
	},
}

func deviceIO(name, help string, get func(messages.DeviceIO) uint64) metric {
	return metric{name: name, help: help, labels: []string{"device"}, counter: true, of: ofBoth, read: func(e *emitter) {
		for _, d := range e.usage.IO.Devices {
			e.add(get(d), d.Device)
		}
	}}
}

var hugetlbMetrics = []metric{
	hugePages("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.", func(h messages.HugePageUsage) uint64 { return h.Bytes }),
	hugePages("container_hugetlb_max_usage_bytes", "Most huge pages that were in use, in bytes.", func(h messages.HugePageUsage) uint64 { return h.Max }),
}

func hugePages(name, help string, get func(messages.HugePageUsage) uint64) metric {
	return metric{name: name, help: help, labels: []string{"pagesize"}, of: ofBoth, read: func(e *emitter) {
		for _, h := range e.usage.HugePages {
			e.add(get(h), h.Size)
		}
	}}
}

var pressureMetrics = []metric{
	stalled("container_pressure_cpu_stalled_seconds_total", "Time in which no task could go on for want of CPU, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) {
			return u.CPU.Pressure, u.CPU.Pressure.Full
		}),
	stalled("container_pressure_cpu_waiting_seconds_total", "Time in which tasks waited for CPU, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) {
			return u.CPU.Pressure, u.CPU.Pressure.Some
		}),
	stalled("container_pressure_memory_stalled_seconds_total", "Time in which no task could go on for want of memory, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) {
			return u.Memory.Pressure, u.Memory.Pressure.Full
		}),
	stalled("container_pressure_memory_waiting_seconds_total", "Time in which tasks waited for memory, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) {
			return u.Memory.Pressure, u.Memory.Pressure.Some
		}),
	stalled("container_pressure_io_stalled_seconds_total", "Time in which no task could go on for IO, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) { return u.IO.Pressure, u.IO.Pressure.Full }),
	stalled("container_pressure_io_waiting_seconds_total", "Time in which tasks waited for IO, in seconds.",
		func(u *messages.Usage) (messages.Pressure, messages.Stall) { return u.IO.Pressure, u.IO.Pressure.Some }),
}

func stalled(name, help string, get func(*messages.Usage) (messages.Pressure, messages.Stall)) metric {
	return counterOfSeconds(name, help, func(u *messages.Usage) messages.Amount {
		p, s := get(u)
		return messages.Amount{N: s.Total, Known: p.Known}
	})
}

package messages

import "time"

// Amount is a measured number. Not every kernel, cgroup version or container
// has each: what could not be measured is not Known, and never shown as 0.
type Amount struct {
	N     uint64
	Known bool
}

// Measured is a known amount.
func Measured(n uint64) Amount { return Amount{N: n, Known: true} }

// Plus is the sum of what is known of the two.
func (a Amount) Plus(b Amount) Amount {
	return Amount{N: a.N + b.N, Known: a.Known || b.Known}
}

// Usage is what the processes of one cgroup, and of those below it, use and
// have used: a container's or a pod's.
type Usage struct {
	At        time.Time // when it was measured
	Kept      bool      // it was measured for an earlier call (collection_period)
	Cgroup    string    // from the root of the hierarchy, as cAdvisor names it
	CPU       CPUUsage
	Memory    MemoryUsage
	IO        IOUsage
	HugePages []HugePageUsage
	Processes ProcessUsage
}

// Pressure is what the kernel tells of time lost by waiting for a resource
// (PSI, Linux 4.20): some: at least one task waited; full: all of them.
type Pressure struct {
	Known      bool
	Some, Full Stall
}

// Stall is one line of a pressure file.
type Stall struct {
	Avg10, Avg60, Avg300 float64 // percent of the last seconds
	Total                uint64  // nanoseconds
}

// CPUUsage is in nanoseconds where it is a time, else in numbers.
type CPUUsage struct {
	Time, User, System Amount
	// NanoCores is the use since an earlier measurement: nanoseconds of CPU
	// per second. Not known before there were two.
	NanoCores                                Amount
	Periods, ThrottledPeriods, ThrottledTime Amount // of the quota
	Quota                                    Amount // microseconds per Period; not known: no limit
	Period                                   Amount // microseconds
	Shares                                   Amount // cgroup v1's scale; 1024 is one share
	Pressure                                 Pressure
}

// MemoryUsage is in bytes where it is an amount of memory, else in numbers.
type MemoryUsage struct {
	Current     Amount // all that is charged, page cache included
	WorkingSet  Amount // Current without the file pages that are reclaimed first
	Available   Amount // Limit − WorkingSet, when there is a limit
	RSS         Amount // anonymous memory
	Peak        Amount
	Limit       Amount // not known: none
	Reservation Amount // what is protected from reclaim

	Cache, Mapped, Kernel, Dirty, Writeback         Amount
	ActiveAnon, InactiveAnon                        Amount
	ActiveFile, InactiveFile                        Amount
	AnonHuge, FileHuge, ShmemHuge                   Amount // cgroup v2
	Faults, MajorFaults                             Amount // with those of the cgroups below
	OwnFaults, OwnMajorFaults                       Amount // without
	Failures                                        Amount // times the limit was hit
	OOMKills                                        Amount
	HighEvents                                      Amount // cgroup v2
	PageScan, PageSteal, FileRefaults, AnonRefaults Amount // cgroup v2
	Swap, SwapAvailable                             Amount // without memory; Available when there is a limit
	SwapLimit                                       Amount // of swap alone; not known: none
	Pressure                                        Pressure
}

// IOUsage is block IO.
type IOUsage struct {
	Devices  []DeviceIO
	Pressure Pressure
}

// DeviceIO is what was read from and written to one block device.
type DeviceIO struct {
	Device       string // "/dev/sda"; "8:0" when it has no name
	Major, Minor uint64
	ReadBytes, WriteBytes, DiscardBytes,
	Reads, Writes, Discards uint64
}

// HugePageUsage is the use of huge pages of one size.
type HugePageUsage struct {
	Size       string // "2MB"
	Bytes, Max uint64 // Max is the highest there was; with cgroup v2, the highest that was measured
}

// ProcessUsage counts processes. Threads are what a pids limit counts.
type ProcessUsage struct {
	Count           Amount
	Threads         Amount
	ThreadsMax      Amount // not known: no limit
	FileDescriptors Amount
	Sockets         Amount
	OpenFilesLimit  Amount // soft, of the container's first process
}

// NetworkUsage is what a pod's network namespace has counted.
type NetworkUsage struct {
	At         time.Time
	Kept       bool
	Interfaces []InterfaceUsage // without loopback; the pod's default one first
}

// InterfaceUsage are the counters of one interface.
type InterfaceUsage struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// DiskUsage is what a container has written to its root file system, and the
// file system it is on.
type DiskUsage struct {
	At            time.Time // when the writable layer was measured
	Bytes, Inodes Amount    // not known while the first measurement goes on
	Mountpoint    string    // a directory on the file system
	Device        string
	Capacity      uint64 // bytes
	InodesTotal   uint64
	InodesFree    uint64
}

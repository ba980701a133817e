package cri

import "github.com/troupe-run/troupe/messages"

var memoryMetrics = []metric{
	gauge(ofBoth, "container_memory_cache", "Page cache, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Cache }),
	gauge(ofBoth, "container_memory_rss", "Anonymous memory, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.RSS }),
	gauge(ofBoth, "container_memory_kernel_usage", "Memory of the kernel, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Kernel }),
	gauge(ofBoth, "container_memory_mapped_file", "Mapped files, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Mapped }),
	gauge(ofBoth, "container_memory_swap", "Swap in use, in bytes; 0 where the kernel does not account swap.",
		func(u *messages.Usage) messages.Amount { return ofMemory(u, u.Memory.Swap.N) }),
	counter(ofBoth, "container_memory_failcnt", "How often the memory limit was hit.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Failures }),
	gauge(ofBoth, "container_memory_usage_bytes", "All memory in use, page cache included, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Current }),
	gauge(ofBoth, "container_memory_max_usage_bytes", "Most memory that was in use, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Peak }),
	gauge(ofBoth, "container_memory_working_set_bytes", "Memory in use without what is reclaimed first, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.WorkingSet }),
	gauge(ofBoth, "container_memory_total_active_file_bytes", "File pages in use of late, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.ActiveFile }),
	gauge(ofBoth, "container_memory_total_inactive_file_bytes", "File pages not in use of late, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.InactiveFile }),
	gauge(ofBoth, "container_memory_file_dirty_bytes", "File pages not yet written, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Dirty }),
	gauge(ofBoth, "container_memory_file_writeback_bytes", "File pages being written, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Writeback }),
	{
		name: "container_memory_failures_total", help: "Page faults.",
		labels: []string{"failure_type", "scope"}, counter: true, of: ofBoth,
		read: func(e *emitter) {
			m := &e.usage.Memory
			e.amount(m.OwnFaults, "pgfault", "container")
			e.amount(m.OwnMajorFaults, "pgmajfault", "container")
			e.amount(m.Faults, "pgfault", "hierarchy")
			e.amount(m.MajorFaults, "pgmajfault", "hierarchy")
		},
	},
	unified(counter(ofBoth, "container_memory_events_high_total", "How often memory.high throttled.",
		func(u *messages.Usage) messages.Amount { return u.Memory.HighEvents })),
	unified(counter(ofBoth, "container_memory_events_max_total", "How often memory.max was hit.",
		func(u *messages.Usage) messages.Amount { return u.Memory.Failures })),
	unified(counter(ofBoth, "container_memory_pgscan_total", "Pages scanned for reclaim.",
		func(u *messages.Usage) messages.Amount { return u.Memory.PageScan })),
	unified(counter(ofBoth, "container_memory_pgsteal_total", "Pages reclaimed.",
		func(u *messages.Usage) messages.Amount { return u.Memory.PageSteal })),
	unified(counter(ofBoth, "container_memory_workingset_refault_file_total", "File pages that were read again after reclaim.",
		func(u *messages.Usage) messages.Amount { return u.Memory.FileRefaults })),
	unified(counter(ofBoth, "container_memory_workingset_refault_anon_total", "Anonymous pages that were read again after reclaim.",
		func(u *messages.Usage) messages.Amount { return u.Memory.AnonRefaults })),
}

// moreMemoryMetrics are CRI-O's, which cAdvisor does not have.
var moreMemoryMetrics = []metric{
	gauge(ofContainers, "container_memory_active_anon_bytes", "Anonymous memory in use of late, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.ActiveAnon }),
	gauge(ofContainers, "container_memory_inactive_anon_bytes", "Anonymous memory not in use of late, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.InactiveAnon }),
	unified(gauge(ofContainers, "container_memory_anon_thp_bytes", "Anonymous memory in transparent huge pages, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.AnonHuge })),
	unified(gauge(ofContainers, "container_memory_shmem_thp_bytes", "Shared memory in transparent huge pages, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.ShmemHuge })),
	unified(gauge(ofContainers, "container_memory_file_thp_bytes", "File pages in transparent huge pages, in bytes.",
		func(u *messages.Usage) messages.Amount { return u.Memory.FileHuge })),
}

func unified(m metric) metric {
	m.unified = true
	return m
}

// ofMemory is a number for whose cgroup memory was measured at all.
func ofMemory(u *messages.Usage, n uint64) messages.Amount {
	return messages.Amount{N: n, Known: u.Memory.Current.Known}
}

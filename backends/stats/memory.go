package stats

import (
	"path"

	"github.com/troupe-run/troupe/messages"
)

// unlimited is where v1's "no limit" begins: the largest number of whole pages.
const unlimited = 1 << 62

func (r *reader) memory(p place, u *messages.MemoryUsage, whole bool) error {
	var err error
	if p.memory != "" {
		err = r.memoryV1(p.memory, u, whole)
	} else if p.v2 != "" {
		err = r.memoryV2(p.v2, u, whole)
	}
	if err != nil {
		return err
	}
	u.Pressure = r.pressure(p.v2, "memory.pressure")
	if u.Current.Known {
		u.WorkingSet = messages.Measured(less(u.Current.N, u.InactiveFile.N))
	}
	if u.Limit.Known && u.WorkingSet.Known {
		u.Available = messages.Measured(less(u.Limit.N, u.WorkingSet.N))
	}
	if u.SwapLimit.Known && u.Swap.Known {
		u.SwapAvailable = messages.Measured(less(u.SwapLimit.N, u.Swap.N))
	}
	return nil
}

func (r *reader) memoryV1(dir string, u *messages.MemoryUsage, whole bool) error {
	text, err := r.read(path.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	accounted := memoryStatV1(text, u)
	u.Current = r.number(dir, "memory.usage_in_bytes")
	u.Limit = limit(r.number(dir, "memory.limit_in_bytes"))
	if !accounted {
		u.Swap = messages.Amount{} // swapaccount=0: the 0 in memory.stat says nothing
	} else if both := limit(r.number(dir, "memory.memsw.limit_in_bytes")); both.Known && u.Limit.Known {
		u.SwapLimit = messages.Measured(less(both.N, u.Limit.N))
	}
	if !whole {
		return nil
	}
	u.Peak = r.number(dir, "memory.max_usage_in_bytes")
	u.Kernel = r.number(dir, "memory.kmem.usage_in_bytes")
	u.Failures = r.number(dir, "memory.failcnt")
	u.Reservation = limit(r.number(dir, "memory.soft_limit_in_bytes"))
	if text, err := r.read(path.Join(dir, "memory.oom_control")); err == nil {
		numbered(text, func(key []byte, n uint64) {
			if string(key) == "oom_kill" {
				u.OOMKills = messages.Measured(n)
			}
		})
	}
	return nil
}

// memoryStatV1 takes the hierarchical numbers; accounted says whether the
// kernel accounts swap.
func memoryStatV1(text []byte, u *messages.MemoryUsage) (accounted bool) {
	numbered(text, func(key []byte, n uint64) {
		a := messages.Measured(n)
		switch string(key) {
		case "total_cache":
			u.Cache = a
		case "total_rss":
			u.RSS = a
		case "total_mapped_file":
			u.Mapped = a
		case "total_dirty":
			u.Dirty = a
		case "total_writeback":
			u.Writeback = a
		case "total_active_anon":
			u.ActiveAnon = a
		case "total_inactive_anon":
			u.InactiveAnon = a
		case "total_active_file":
			u.ActiveFile = a
		case "total_inactive_file":
			u.InactiveFile = a
		case "total_pgfault":
			u.Faults = a
		case "total_pgmajfault":
			u.MajorFaults = a
		case "pgfault":
			u.OwnFaults = a
		case "pgmajfault":
			u.OwnMajorFaults = a
		case "total_swap":
			u.Swap = a
		case "hierarchical_memsw_limit":
			accounted = true
		}
	})
	return accounted
}

func (r *reader) memoryV2(dir string, u *messages.MemoryUsage, whole bool) error {
	text, err := r.read(path.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	memoryStatV2(text, u)
	u.OwnFaults, u.OwnMajorFaults = u.Faults, u.MajorFaults
	u.Current = r.number(dir, "memory.current")
	u.Limit = limit(r.number(dir, "memory.max"))
	u.Swap = r.number(dir, "memory.swap.current")
	u.SwapLimit = limit(r.number(dir, "memory.swap.max"))
	if !whole {
		return nil
	}
	u.Peak = r.number(dir, "memory.peak") // Linux 5.19
	u.Reservation = r.number(dir, "memory.min")
	if text, err := r.read(path.Join(dir, "memory.events")); err == nil {
		numbered(text, func(key []byte, n uint64) {
			switch string(key) {
			case "high":
				u.HighEvents = messages.Measured(n)
			case "max":
				u.Failures = messages.Measured(n)
			case "oom_kill":
				u.OOMKills = messages.Measured(n)
			}
		})
	}
	return nil
}

func memoryStatV2(text []byte, u *messages.MemoryUsage) {
	numbered(text, func(key []byte, n uint64) {
		a := messages.Measured(n)
		switch string(key) {
		case "anon":
			u.RSS = a
		case "file":
			u.Cache = a
		case "kernel":
			u.Kernel = a
		case "file_mapped":
			u.Mapped = a
		case "file_dirty":
			u.Dirty = a
		case "file_writeback":
			u.Writeback = a
		case "anon_thp":
			u.AnonHuge = a
		case "file_thp":
			u.FileHuge = a
		case "shmem_thp":
			u.ShmemHuge = a
		case "active_anon":
			u.ActiveAnon = a
		case "inactive_anon":
			u.InactiveAnon = a
		case "active_file":
			u.ActiveFile = a
		case "inactive_file":
			u.InactiveFile = a
		case "workingset_refault_file":
			u.FileRefaults = a
		case "workingset_refault_anon":
			u.AnonRefaults = a
		case "pgscan":
			u.PageScan = a
		case "pgsteal":
			u.PageSteal = a
		case "pgfault":
			u.Faults = a
		case "pgmajfault":
			u.MajorFaults = a
		}
	})
}

// limit is not known when it is none.
func limit(a messages.Amount) messages.Amount {
	if a.N >= unlimited {
		return messages.Amount{}
	}
	return a
}

// less subtracts; numbers that were read one after the other may cross.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

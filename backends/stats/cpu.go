package stats

import (
	"path"

	"github.com/troupe-run/troupe/messages"
)

// cpu reads what the CPU controllers account. The file with the time is the
// first to be read of a cgroup: its error says that the cgroup has gone.
func (r *reader) cpu(p place, u *messages.CPUUsage, whole bool) error {
	if p.cpuacct == "" && p.cpu == "" {
		return r.cpuV2(p, u, whole)
	}
	if p.cpuacct != "" {
		text, err := r.read(path.Join(p.cpuacct, "cpuacct.usage"))
		if err != nil {
			return err
		}
		u.Time = number(text)
		if whole {
			u.User = r.number(p.cpuacct, "cpuacct.usage_user")
			u.System = r.number(p.cpuacct, "cpuacct.usage_sys")
		}
	}
	if whole && p.cpu != "" {
		if text, err := r.read(path.Join(p.cpu, "cpu.stat")); err == nil {
			throttling(text, u)
		}
		u.Quota = r.number(p.cpu, "cpu.cfs_quota_us") // -1 is no number: no limit
		u.Period = r.number(p.cpu, "cpu.cfs_period_us")
		u.Shares = r.number(p.cpu, "cpu.shares")
	}
	u.Pressure = r.pressure(p.v2, "cpu.pressure")
	return nil
}

func (r *reader) cpuV2(p place, u *messages.CPUUsage, whole bool) error {
	text, err := r.read(path.Join(p.v2, "cpu.stat"))
	if err != nil {
		return err
	}
	throttling(text, u)
	u.Pressure = r.pressure(p.v2, "cpu.pressure")
	if !whole {
		return nil
	}
	if text, err := r.read(path.Join(p.v2, "cpu.max")); err == nil {
		w := words(text)
		quota, _ := w.next()
		period, _ := w.next()
		u.Quota, u.Period = number(quota), number(period)
	}
	if weight := r.number(p.v2, "cpu.weight"); weight.Known && weight.N > 0 {
		u.Shares = messages.Measured(sharesOf(weight.N))
	}
	return nil
}

// sharesOf turns a v2 weight (1…10000) into v1 shares (2…262144), by the way
// back from the formula that kubelet and runtimes have used from the start
// (KEP-2254). Newer runtimes use another one: this is for a container whose
// shares nobody asked for.
func sharesOf(weight uint64) uint64 { return 2 + (weight-1)*262142/9999 }

// throttling reads cpu.stat of either version: v1 counts nanoseconds, v2
// microseconds, under names of their own.
func throttling(text []byte, u *messages.CPUUsage) {
	numbered(text, func(key []byte, n uint64) {
		switch string(key) {
		case "usage_usec":
			u.Time = messages.Measured(n * 1000)
		case "user_usec":
			u.User = messages.Measured(n * 1000)
		case "system_usec":
			u.System = messages.Measured(n * 1000)
		case "nr_periods":
			u.Periods = messages.Measured(n)
		case "nr_throttled":
			u.ThrottledPeriods = messages.Measured(n)
		case "throttled_time":
			u.ThrottledTime = messages.Measured(n)
		case "throttled_usec":
			u.ThrottledTime = messages.Measured(n * 1000)
		}
	})
}

// number reads a file with one number; not known when there is no such file.
func (r *reader) number(dir, name string) messages.Amount {
	text, err := r.read(path.Join(dir, name))
	if err != nil {
		return messages.Amount{}
	}
	return number(text)
}

// pressure reads a PSI file; a kernel may be without (psi=0), and a cgroup of a
// v1 node may have no v2 directory.
func (r *reader) pressure(dir, name string) messages.Pressure {
	if dir == "" {
		return messages.Pressure{}
	}
	text, err := r.read(path.Join(dir, name))
	if err != nil {
		return messages.Pressure{}
	}
	return pressure(text)
}

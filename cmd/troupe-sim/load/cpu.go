package load

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cost is what something took: time, and the CPU time of the whole machine
// without the driver's own: the runtime, what it starts, and the kernel's work
// for both. In seconds.
type Cost struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

// over measures what do costs. Nothing else must run.
func (c *Cost) over(do func() error) error {
	start, err := readTicks()
	if err != nil {
		return err
	}
	own, began := ownCPU(), time.Now()
	if err := do(); err != nil {
		return err
	}
	c.Seconds = time.Since(began).Seconds()
	end, err := readTicks()
	c.CPUSeconds = float64(end.busy-start.busy)/perSecond - (ownCPU() - own).Seconds()
	return err
}

// BusyCores is how many cores are used while the caller only waits.
func BusyCores(ctx context.Context, wait time.Duration) (float64, error) {
	before, err := readTicks()
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, wait); err != nil {
		return 0, err
	}
	after, err := readTicks()
	if err != nil || after == before {
		return 0, err
	}
	busy, idle := float64(after.busy-before.busy), float64(after.idle-before.idle)
	return float64(runtime.NumCPU()) * busy / (busy + idle), nil
}

// perSecond is USER_HZ, which Linux has fixed for user space.
const perSecond = 100

// ticks are of all cores together, since the machine's start.
type ticks struct{ busy, idle uint64 }

// readTicks reads the first line of proc_stat(5): user, nice, system, idle,
// iowait, irq, softirq, steal; guest time is within the first.
func readTicks() (t ticks, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
		switch {
		case i == 3 || i == 4:
			t.idle += n
		case i < 8:
			t.busy += n
		}
	}
	return t, nil
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// CPUOf is the CPU time of the processes of these binaries, by the scheduler's
// own account (a tick of proc_pid_stat(5) is longer than what an idle runtime
// uses in a second). Threads that ended are not in it.
func CPUOf(names []string) (sum time.Duration, err error) {
	dirs, err := processesOf(names)
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		threads, err := filepath.Glob(dir + "/task/[0-9]*/schedstat")
		if err != nil {
			return 0, err
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // ended meanwhile
			}
			if err != nil {
				return 0, err
			}
			var nanoseconds int64
			if _, err := fmt.Sscan(string(text), &nanoseconds); err != nil {
				return 0, fmt.Errorf("%s: %w", thread, err)
			}
			sum += time.Duration(nanoseconds)
		}
	}
	return sum, nil
}

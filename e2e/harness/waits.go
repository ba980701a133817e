package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stalls is how much of both processors' time the kernel takes for itself when
// it makes no progress, in percent.
const stalls = 95

// Stalled says whether the kernel has taken all processors for itself in the
// last half second or so. On two processors, Linux 6.18 can stand still so for
// half a minute in processes that wait for a child and remove its entries in /proc
// (release_task, d_invalidate, d_walk; DESIGN "Crash points").
func Stalled() bool {
	before := systemTime()
	time.Sleep(500 * time.Millisecond)
	now := systemTime()
	all := now[1] - before[1]
	return all > 0 && (now[0]-before[0])*100/all >= stalls
}

// systemTime is the time of the kernel and of all, in ticks.
func systemTime() (t [2]int) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, _ := strconv.Atoi(field) // 0 of the line's name
		t[1] += n
		if i == 3 {
			t[0] = n
		}
	}
	return t
}

// Waits tells what each thread on this node waits for, as the kernel says it: a
// line with pid, command line, state and the kernel's function, and the kernel's
// stack of those that cannot be interrupted. Those that could run have a second
// line, half a second later: the processor, and how long they ran and waited for
// it in that time. It is for the moment at which something takes longer than it
// may.
func Waits() string {
	var b strings.Builder
	var runnable []string
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, task := range tasks {
		fields := taskStat(task)
		if len(fields) < 37 {
			continue // it has ended since
		}
		at, _ := os.ReadFile(filepath.Join(task, "wchan"))
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(task)), "cmdline"))
		command = bytes.TrimSpace(bytes.ReplaceAll(command, []byte{0}, []byte{' '}))
		fmt.Fprintf(&b, "%s %s %s %.120s\n", strings.TrimPrefix(task, "/proc/"), fields[0], at, command)
		if fields[0] == "D" || fields[0] == "R" {
			stack, _ := os.ReadFile(filepath.Join(task, "stack"))
			b.Write(stack)
			runnable = append(runnable, task)
		}
	}
	before := map[string][2]time.Duration{}
	for _, task := range runnable {
		before[task] = ranAndWaited(task)
	}
	time.Sleep(500 * time.Millisecond)
	for _, task := range runnable {
		fields, now := taskStat(task), ranAndWaited(task)
		if len(fields) < 37 {
			continue
		}
		fmt.Fprintf(&b, "%s %s on cpu %s: ran %s, waited for it %s\n", strings.TrimPrefix(task, "/proc/"), fields[0], fields[36], now[0]-before[task][0], now[1]-before[task][1])
	}
	return b.String()
}

// taskStat is a thread's stat from its state on (proc(5)).
func taskStat(task string) []string {
	stat, _ := os.ReadFile(filepath.Join(task, "stat"))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.Fields(rest)
}

func ranAndWaited(task string) (d [2]time.Duration) {
	stat, _ := os.ReadFile(filepath.Join(task, "schedstat"))
	_, _ = fmt.Sscan(string(stat), &d[0], &d[1]) // zeros of one that has ended
	return d
}

// Goroutines has the daemon write down what all its goroutines are at.
func (d *Daemon) Goroutines() string {
	old, _ := filepath.Glob(filepath.Join(d.Run, "goroutines-*.txt"))
	if d.cmd == nil || d.cmd.Process.Signal(unix.SIGUSR1) != nil {
		return ""
	}
	for range 50 {
		time.Sleep(20 * time.Millisecond)
		if dumps, _ := filepath.Glob(filepath.Join(d.Run, "goroutines-*.txt")); len(dumps) > len(old) {
			time.Sleep(50 * time.Millisecond) // while it is written
			text, _ := os.ReadFile(dumps[len(dumps)-1])
			_ = os.Remove(dumps[len(dumps)-1]) // the survey would find it
			return string(text)
		}
	}
	return ""
}

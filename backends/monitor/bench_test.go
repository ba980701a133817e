package monitor_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a container prints as fast as it can, in lines of 100 bytes: how much of
// it gets into the log in a second, and what that costs the monitor.
func BenchmarkTheLogOfAFloodOfLines(b *testing.B) {
	const each = 64 << 20
	flood(b, each, fmt.Sprintf("yes %s | head -c %d", strings.Repeat("x", 99), each))
}

// One line a write, with the monitor fast enough to get each alone: the dear case.
func BenchmarkTheLogOfSingleLines(b *testing.B) {
	const lines = 50000
	flood(b, lines*100, fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo %s; i=$((i+1)); done", lines, strings.Repeat("x", 99)))
}

func flood(b *testing.B, each int64, script string) {
	n := newNode(b)
	pid := n.monitorPid()
	b.SetBytes(each)
	b.ResetTimer()
	before := cpuOf(b, pid)
	for b.Loop() {
		r := n.container(shell(script))
		n.run(r)
		n.exit(r)
		b.StopTimer()
		if info, err := os.Stat(r.LogPath); err != nil || info.Size() < each {
			b.Fatalf("the log: %v, %v", info, err)
		}
		if err := n.Delete(n.ctx(), r.Pod, r.Container); err != nil {
			b.Fatal(err)
		}
		_ = os.Remove(r.LogPath)
		b.StartTimer()
	}
	used := cpuOf(b, pid) - before
	b.ReportMetric(used.Seconds()/(float64(each)*float64(b.N)/1e9), "monitor-cpu-s/GB")
}

// cpuOf is the time that a process has run (proc(5), in ticks of 10 ms).
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

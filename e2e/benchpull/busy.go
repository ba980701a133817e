package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// busyCores is how many cores are used while the caller only waits.
func busyCores(wait time.Duration) (float64, error) {
	idle, all, err := ticks()
	if err != nil {
		return 0, err
	}
	time.Sleep(wait)
	idleNow, allNow, err := ticks()
	if err != nil || allNow == all {
		return 0, err
	}
	return float64(runtime.NumCPU()) * (1 - float64(idleNow-idle)/float64(allNow-all)), nil
}

// ticks reads the first line of proc_stat(5): user, nice, system, idle,
// iowait and so on, of all cores together.
func ticks() (idle, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, all, nil
}

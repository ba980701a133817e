package load

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Memory is what the runtime's processes hold.
type Memory struct {
	PSSKiB    int            `json:"pssKiB"` // proportional set size: a shared page counts by its share
	Processes map[string]int `json:"processes"`
}

// measure sums the PSS (proc(5), smaps_rollup) of every process whose binary
// has one of the names.
func measure(names []string) (Memory, error) {
	m := Memory{Processes: map[string]int{}}
	dirs, err := processesOf(names)
	if err != nil {
		return m, err
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue // ended meanwhile
		}
		kib, err := pss(string(text))
		if err != nil {
			return m, fmt.Errorf("%s/smaps_rollup: %w", dir, err)
		}
		m.PSSKiB += kib
		m.Processes[binary(dir)]++
	}
	return m, nil
}

// processesOf are the directories in /proc of all processes whose binary has
// one of the names.
func processesOf(names []string) (dirs []string, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range all {
		if slices.Contains(names, binary(dir)) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// binary is "" for a process that has ended, or has none.
func binary(dir string) string {
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(exe), " (deleted)") // one that was replaced while it runs
}

func pss(rollup string) (int, error) {
	for _, line := range strings.Split(rollup, "\n") {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "Pss:" {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("no Pss line")
}

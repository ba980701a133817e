package load

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Memory is what the runtime's processes hold with so many pods.
type Memory struct {
	Pods      int            `json:"pods"`
	PSSKiB    int            `json:"pssKiB"` // proportional set size: a shared page counts by its share
	Processes map[string]int `json:"processes"`
}

// measure sums the PSS (proc(5), smaps_rollup) of every process whose binary
// has one of the names.
func measure(names []string) (Memory, error) {
	m := Memory{Processes: map[string]int{}}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return m, err
	}
	for _, dir := range dirs {
		exe, err := os.Readlink(dir + "/exe")
		name := strings.TrimSuffix(filepath.Base(exe), " (deleted)") // a binary that was replaced while it runs
		if err != nil || !slices.Contains(names, name) {
			continue
		}
		text, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue // ended meanwhile
		}
		kib, err := pss(string(text))
		if err != nil {
			return m, fmt.Errorf("%s/smaps_rollup: %w", dir, err)
		}
		m.PSSKiB += kib
		m.Processes[name]++
	}
	return m, nil
}

func pss(rollup string) (int, error) {
	for _, line := range strings.Split(rollup, "\n") {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "Pss:" {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("no Pss line")
}

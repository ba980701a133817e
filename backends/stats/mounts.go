package stats

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// The controllers that are read.
const (
	cpu     = "cpu"
	cpuacct = "cpuacct"
	memory  = "memory"
	pids    = "pids"
	blkio   = "blkio" // "io" on v2
	hugetlb = "hugetlb"
	unified = "" // the v2 tree itself
)

var controllers = []string{cpu, cpuacct, memory, pids, blkio, hugetlb}

// tree is a mounted cgroup hierarchy.
type tree struct {
	at   string // mount point
	root string // what of the hierarchy is mounted there; "/" but in containers
}

// dir is the directory of a cgroup of this hierarchy.
func (t tree) dir(cgroup string) string {
	if t.root != "/" {
		cgroup = strings.TrimPrefix(cgroup, t.root)
	}
	return path.Join(t.at, cgroup)
}

// trees says where each controller is: on v1 each has a tree of its own or
// shares one, on v2 there is one for all, and on a hybrid node both.
type trees struct {
	v1      map[string]tree // by controller
	v2      *tree
	hugeOf  []string // sizes of huge pages, as in names of files: "2MB"
	devices *devices
}

func mounted() (*trees, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	t := &trees{v1: map[string]tree{}, hugeOf: hugePageSizes("/sys/kernel/mm/hugepages"), devices: &devices{}}
	for _, m := range mounts {
		here := tree{at: m.Mountpoint, root: m.Root}
		if m.FSType == "cgroup2" {
			if t.v2 == nil {
				t.v2 = &here
			}
			continue
		}
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			if _, twice := t.v1[option]; !twice && isController(option) {
				t.v1[option] = here
			}
		}
	}
	if t.v2 == nil && len(t.v1) == 0 {
		return nil, errors.New("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return t, nil
}

func isController(name string) bool {
	for _, c := range controllers {
		if c == name {
			return true
		}
	}
	return false
}

// unified says whether memory is accounted by v2.
func (t *trees) unified() bool {
	_, v1 := t.v1[memory]
	return !v1
}

// hugePageSizes turns hugepages-2048kB into 2MB, the form in cgroup files.
func hugePageSizes(dir string) (sizes []string) {
	entries, _ := os.ReadDir(dir) // a kernel without huge pages has no such directory
	for _, e := range entries {
		kb := number([]byte(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB")))
		switch {
		case !kb.Known || kb.N == 0:
		case kb.N%(1<<20) == 0:
			sizes = append(sizes, fmt.Sprintf("%dGB", kb.N>>20))
		case kb.N%(1<<10) == 0:
			sizes = append(sizes, fmt.Sprintf("%dMB", kb.N>>10))
		default:
			sizes = append(sizes, fmt.Sprintf("%dKB", kb.N))
		}
	}
	return sizes
}

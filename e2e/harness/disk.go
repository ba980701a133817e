package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a small ext4 file system of the lab's own on a loop device: for what
// must see a real block device (cAdvisor finds a directory's device by it), or
// a disk that fills up without harm.
type Disk struct{ Dir, Device string }

// NewDisk makes one of that many MiB and mounts it in the lab. The loop device
// goes when its mount does, also when the whole run is killed.
func (l *Lab) NewDisk(name string, mib int64) (*Disk, error) {
	// No journal and no reserve: it lives for minutes and its percentages are tested.
	return l.newDisk(name, mib, "-m", "0", "-O", "^has_journal")
}

// NewJournaledDisk makes one as a node has it: with a journal, so that syncing
// costs what it costs there, and complete, so that no kernel thread goes on
// making it while something is measured.
func (l *Lab) NewJournaledDisk(name string, mib int64) (*Disk, error) {
	return l.newDisk(name, mib, "-O", "has_journal", "-E", "lazy_itable_init=0,lazy_journal_init=0")
}

func (l *Lab) newDisk(name string, mib int64, features ...string) (*Disk, error) {
	image := l.Path("disks", name+".img")
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", append(features, "-q", "-F", image)...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4 %s: %w: %s (make setup installs e2fsprogs)", image, err, out)
	}
	dir, err := l.Mkdir("disks", name)
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mounting %s: %w: %s", image, err, strings.TrimSpace(string(out)))
	}
	device, err := exec.Command("findmnt", "-no", "SOURCE", dir).Output()
	if err != nil {
		return nil, fmt.Errorf("finding the device of %s: %w", dir, err)
	}
	return &Disk{Dir: dir, Device: strings.TrimSpace(string(device))}, nil
}

// Used is how full the disk is, in percent as the kubelet counts it.
func (d *Disk) Used() (int, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.Dir, &s); err != nil {
		return 0, err
	}
	return 100 - int(s.Bavail*100/s.Blocks), nil
}

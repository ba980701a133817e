package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a small ext4 file system of the lab's own on a loop device: for what
// must see a real block device (cAdvisor finds a directory's device by it), or
// a disk that fills up without harm.
type Disk struct {
	Dir, Device string
	image       string
}

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
	d := &Disk{Dir: dir, image: image}
	return d, d.mount()
}

func (d *Disk) mount() error {
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mounting %s: %w: %s", d.image, err, strings.TrimSpace(string(out)))
	}
	device, err := exec.Command("findmnt", "-no", "SOURCE", d.Dir).Output()
	if err != nil {
		return fmt.Errorf("finding the device of %s: %w", d.image, err)
	}
	d.Device = strings.TrimSpace(string(device))
	return nil
}

// Break has the kernel find an error on the disk. From then on it is read-only,
// and what it was to write and had not is lost: nothing, here.
func (d *Disk) Break() error {
	if out, err := exec.Command("sync", "-f", d.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("sync %s: %w: %s", d.Dir, err, out)
	}
	if out, err := exec.Command("mount", "-o", "remount,errors=remount-ro", d.Dir).CombinedOutput(); err != nil {
		return fmt.Errorf("remounting %s: %w: %s", d.Dir, err, strings.TrimSpace(string(out)))
	}
	return os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(d.Device), "trigger_fs_error"), []byte("a test"), 0)
}

// Repair does what an administrator does with a disk that has an error: takes it
// away from everybody, has it checked and mounts it again.
func (d *Disk) Repair() error {
	if err := unix.Unmount(d.Dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", d.Dir, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		users, err := exec.Command("losetup", "-j", d.image).Output()
		if err != nil {
			return fmt.Errorf("losetup: %w", err)
		}
		if len(users) == 0 {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is still in use: %s", d.image, users)
		}
	}
	out, err := exec.Command("fsck.ext4", "-fy", d.image).CombinedOutput()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: it has mended something
		return fmt.Errorf("fsck.ext4 %s: %w: %s", d.image, err, out)
	}
	return d.mount()
}

// Used is how full the disk is, in percent as the kubelet counts it.
func (d *Disk) Used() (int, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.Dir, &s); err != nil {
		return 0, err
	}
	return 100 - int(s.Bavail*100/s.Blocks), nil
}

package blackout

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Guest is what shared/vm/build has made: a kernel with its modules, and a
// Debian on a disk.
type Guest struct {
	Kernel  string // the path of its image
	Version string // as in the names of its modules
	Base    string // the disk with Debian, an ext4 without partitions
	Accel   string // QEMU's -accel
}

// FindGuest looks into the cache of shared/vm for the kernel "stable" or "new".
func FindGuest(cache, kernel string) (*Guest, error) {
	g := &Guest{Kernel: filepath.Join(cache, "vmlinuz-"+kernel), Base: filepath.Join(cache, "base.raw"), Accel: "tcg,thread=multi"}
	if probed, err := os.ReadFile(filepath.Join(cache, "accel")); err == nil && bytes.HasSuffix(bytes.TrimSpace(probed), []byte(" kvm")) {
		g.Accel = "kvm"
	}
	version, err := os.ReadFile(filepath.Join(cache, "version-"+kernel))
	if err != nil {
		return nil, fmt.Errorf("no guest kernel: run shared/vm/build (e2e/vm.sh does): %w", err)
	}
	g.Version = strings.TrimSpace(string(version))
	return g, nil
}

// DumpModules takes the modules that machines need out of the guest's disk
// without mounting it.
func (g *Guest) DumpModules(to string) error {
	places := map[string]string{"overlay": "fs/overlayfs", "failover": "net/core", "virtio_blk": "drivers/block"}
	for _, name := range strings.Fields(Modules) {
		place := places[name]
		if place == "" {
			place = "drivers/net"
		}
		target := filepath.Join(to, name+".ko")
		if err := Command("debugfs", "-R", fmt.Sprintf("dump /usr/lib/modules/%s/kernel/%s/%s.ko %s", g.Version, place, name, target), g.Base); err != nil {
			return err
		}
		if info, err := os.Stat(target); err != nil || info.Size() == 0 {
			return fmt.Errorf("kernel module %s is not in %s: %w", name, g.Base, err)
		}
	}
	return nil
}

// FormatDisk makes a journaled ext4 as Debian makes one, with what is in the
// directory content ("": nothing). A file at path is used for a moment.
func FormatDisk(path, size, content string) (*Disk, error) {
	defer os.Remove(path)
	args := []string{"-q", "-F", "-E", "lazy_itable_init=0,nodiscard"}
	if content != "" {
		args = append(args, "-d", content)
	}
	if err := Command("mkfs.ext4", append(args, path, size)...); err != nil {
		return nil, err
	}
	bytes, err := os.ReadFile(path)
	return NewDisk(bytes), err
}

// Command runs a program that must succeed.
func Command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

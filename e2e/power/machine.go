package main

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
)

// workshop has what all machines are made from: the kernel of shared/vm's
// guest and a root of this program (as process 1), Troupe and five modules.
// Debian's user space is left out: emulated, its boot takes half a minute, and
// a round is one boot.
type workshop struct {
	*blackout.Guest
	lab  *harness.Lab
	root string
}

func newWorkshop(lab *harness.Lab, cache, kernel string) (*workshop, error) {
	guest, err := blackout.FindGuest(cache, kernel)
	if err != nil {
		return nil, err
	}
	w := &workshop{guest, lab, lab.Path("root.raw")}
	for _, dir := range []string{"bin", "lib/modules", "proc", "sys", "dev", "run", "tmp", "root", "data", "etc"} {
		if err := os.MkdirAll(lab.Path("root", dir), 0o755); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	copies := map[string]string{"power": self}
	for _, name := range []string{"troupe", "troupe-monitor"} {
		if copies[name], err = harness.Tool(name); err != nil {
			return nil, err
		}
	}
	for name, from := range copies {
		if err := blackout.Command("cp", "-L", from, lab.Path("root", "bin", name)); err != nil {
			return nil, err
		}
	}
	if err := w.DumpModules(lab.Path("root", "lib", "modules")); err != nil {
		return nil, err
	}
	return w, w.makeRoot(lab.Path("root"))
}

// makeRoot puts a directory on a disk with one partition: the kernel finds a
// root by a partition's name without help, and names of disks are a race.
func (w *workshop) makeRoot(dir string) error {
	const start, size = 1 << 20, 160 << 20
	if err := blackout.Command("mkfs.ext4", "-q", "-F", "-d", dir, "-E", fmt.Sprintf("offset=%d", start), w.root, fmt.Sprintf("%dk", size>>10)); err != nil {
		return err
	}
	table := make([]byte, 512) // an MBR: signature, one entry, magic
	copy(table[440:], "powr")
	table[446+4] = 0x83
	binary.LittleEndian.PutUint32(table[446+8:], start/512)
	binary.LittleEndian.PutUint32(table[446+12:], size/512)
	copy(table[510:], "\x55\xaa")
	f, err := os.OpenFile(w.root, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(table); err != nil {
		return err
	}
	return f.Truncate(start + size)
}

// newMachine is one of this workshop, with an empty disk.
func (w *workshop) newMachine(name string) (*blackout.Machine, error) {
	disk, err := blackout.FormatDisk(w.lab.Path(name+".raw"), "512M", "")
	return &blackout.Machine{Name: name, Dir: w.lab.Dir, Disk: disk, QEMU: []string{
		"-accel", w.Accel, "-cpu", "max,la57=off,avx=off,avx2=off", "-smp", "1", "-m", "1G",
		"-kernel", w.Kernel,
		"-append", "console=ttyS0 loglevel=4 edd=off root=PARTUUID=72776f70-01 rootfstype=ext4 ro rootflags=noload init=/bin/power " +
			"nokaslr no_timer_check mitigations=off audit=0 nowatchdog panic=-1 random.trust_cpu=on net.ifnames=0 cgroup_no_v1=all -- guest",
		"-device", "nvme,id=nvme,serial=power",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + w.root, "-device", "nvme-ns,drive=root,bus=nvme,nsid=1",
	}}, err
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
)

// workshop has what all machines are made from: the kernel of shared/vm's
// guest and a root of this program (as process 1), Troupe and five modules.
// Debian's user space is left out: emulated, its boot takes half a minute, and
// a round is one boot.
type workshop struct {
	lab                 *harness.Lab
	kernel, root, accel string
}

func newWorkshop(lab *harness.Lab, cache, kernel string) (*workshop, error) {
	w := &workshop{lab: lab, kernel: filepath.Join(cache, "vmlinuz-"+kernel), root: lab.Path("root.raw"), accel: "tcg,thread=multi"}
	if probed, err := os.ReadFile(filepath.Join(cache, "accel")); err == nil && bytes.HasSuffix(bytes.TrimSpace(probed), []byte(" kvm")) {
		w.accel = "kvm"
	}
	version, err := os.ReadFile(filepath.Join(cache, "version-"+kernel))
	if err != nil {
		return nil, fmt.Errorf("no guest kernel: run shared/vm/build (e2e/vm.sh does): %w", err)
	}
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
		if err := run("cp", "-L", from, lab.Path("root", "bin", name)); err != nil {
			return nil, err
		}
	}
	for _, name := range strings.Fields(modules) {
		if err := dumpModule(filepath.Join(cache, "base.raw"), strings.TrimSpace(string(version)), name, lab.Path("root", "lib", "modules")); err != nil {
			return nil, err
		}
	}
	return w, w.makeRoot(lab.Path("root"))
}

// makeRoot puts a directory on a disk with one partition: the kernel finds a
// root by a partition's name without help, and names of disks are a race.
func (w *workshop) makeRoot(dir string) error {
	const start, size = 1 << 20, 160 << 20
	if err := run("mkfs.ext4", "-q", "-F", "-d", dir, "-E", fmt.Sprintf("offset=%d", start), w.root, fmt.Sprintf("%dk", size>>10)); err != nil {
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

// dumpModule takes a kernel module out of the guest's disk without mounting it.
func dumpModule(disk, version, name, to string) error {
	places := map[string]string{"overlay": "fs/overlayfs", "failover": "net/core", "virtio_blk": "drivers/block"}
	place := places[name]
	if place == "" {
		place = "drivers/net"
	}
	target := filepath.Join(to, name+".ko")
	if err := run("debugfs", "-R", fmt.Sprintf("dump /usr/lib/modules/%s/kernel/%s/%s.ko %s", version, place, name, target), disk); err != nil {
		return err
	}
	if info, err := os.Stat(target); err != nil || info.Size() == 0 {
		return fmt.Errorf("kernel module %s is not in %s: %w", name, disk, err)
	}
	return nil
}

// newDisk is an empty journaled ext4, made as Debian makes one.
func (w *workshop) newDisk(name string) (*Disk, error) {
	path := w.lab.Path(name + ".raw")
	defer os.Remove(path)
	if err := run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", path, "512M"); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	return NewDisk(content), err
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// machine is one boot of a guest, from power on to power off.
type machine struct {
	name       string
	disk       *Disk
	cmd        *exec.Cmd
	ctl, store net.Listener
	served     chan error
}

// boot starts a machine, gives it the plan, and hands its events to see until
// one is the last. However it ends, the machine is off afterwards and no write
// of it can reach the disk any more.
func (w *workshop) boot(ctx context.Context, name string, disk *Disk, plan Plan, limit time.Duration, see func(Event)) (err error) {
	m := &machine{name: name, disk: disk, served: make(chan error, 1)}
	paths := map[string]*net.Listener{"ctl": &m.ctl, "disk": &m.store}
	for kind, l := range paths {
		if *l, err = net.Listen("unix", w.lab.Path(name+"."+kind)); err != nil {
			return err
		}
		defer (*l).Close()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	console := w.lab.Path(name + ".console")
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", w.arguments(name, console)...)
	var complaint bytes.Buffer
	m.cmd.Stderr = &complaint
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("starting QEMU (apt-get install qemu-system-x86): %w", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = m.cmd.Wait() // killed is how it is meant to end
		close(gone)
		m.ctl.Close()
		m.store.Close()
	}()
	defer func() {
		disk.Cut()
		_ = m.cmd.Process.Kill()
		<-gone
		if err != nil {
			err = fmt.Errorf("%w\nQEMU: %s\nconsole: %s", err, complaint.String(), lastLines(console, 30))
		}
	}()
	go func() { m.served <- m.serveDisk() }()
	return m.converse(plan, see)
}

func (w *workshop) arguments(name, console string) []string {
	return []string{
		"-M", "pc", "-bios", "qboot.rom", "-accel", w.accel, "-cpu", "max,la57=off,avx=off,avx2=off", "-smp", "1", "-m", "1G",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + console,
		"-kernel", w.kernel,
		"-append", "console=ttyS0 loglevel=4 edd=off root=PARTUUID=72776f70-01 rootfstype=ext4 ro rootflags=noload init=/bin/power " +
			"nokaslr no_timer_check mitigations=off audit=0 nowatchdog panic=-1 random.trust_cpu=on net.ifnames=0 cgroup_no_v1=all -- guest",
		"-device", "nvme,id=nvme,serial=power",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + w.root, "-device", "nvme-ns,drive=root,bus=nvme,nsid=1",
		"-blockdev", "driver=nbd,node-name=data,server.type=unix,server.path=" + w.lab.Path(name+".disk"),
		"-device", "virtio-blk-pci,drive=data", // not NVMe: mountData says why
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=ctl,path=" + w.lab.Path(name+".ctl"), "-device", "virtserialport,chardev=ctl,name=ctl",
	}
}

func (m *machine) serveDisk() error {
	conn, err := m.store.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	return serve(conn, m.disk)
}

// converse is the host's end of the line. The moment the machine asks for the
// cut, the disk is off: the answer to its last write may never arrive.
func (m *machine) converse(plan Plan, see func(Event)) error {
	conn, err := m.ctl.Accept()
	if err != nil {
		return errors.New("the machine did not start")
	}
	defer conn.Close()
	go func() { // the line is closed by QEMU's end; without its disk the machine only hangs
		if err := <-m.served; err != nil {
			fmt.Fprintf(os.Stderr, "%s: its disk: %v\n", m.name, err)
			conn.Close()
		}
	}()
	if err := json.NewEncoder(conn).Encode(plan); err != nil {
		return err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("what the machine says (%q): %w", lines.Text(), err)
		}
		if e.Kind == "cut" || e.Kind == "done" {
			m.disk.Cut()
		}
		see(e)
		switch e.Kind {
		case "cut", "done":
			return nil
		case "failed":
			return errors.New(e.Error)
		}
	}
	return errors.New("the machine ended by itself or took too long")
}

func lastLines(path string, n int) string {
	text, _ := os.ReadFile(path)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

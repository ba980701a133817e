package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
)

// The guest's root is Debian's, made anew for each run of this program: what is
// written to it is forgotten at each boot. /var is the disk that lives through
// the cuts; it has all that Troupe, CNI plugins and pods keep.
const (
	initScript = `#!/bin/sh
[ -c /dev/null ] || mount -n -t devtmpfs dev /dev
modprobe virtio_blk
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/` + blackout.DataDisk + ` ] && break; sleep 0.5; done
mount -n -t ext4 -o errors=remount-ro /dev/` + blackout.DataDisk + ` /var || echo "no /var: $?"
exec /lib/systemd/systemd
`
	agentUnit = `[Unit]
Description=The test's end in the guest
After=basic.target dbus.socket systemd-modules-load.service systemd-sysctl.service
[Service]
ExecStart=/usr/local/bin/reboots guest
StandardError=journal+console
[Install]
WantedBy=multi-user.target
`
	// A /28 has 13 addresses for pods: those of a boot that were not given back
	// are missed soon. Host ports are Troupe's own to redirect, as no plugin does.
	network = `{"cniVersion": "1.0.0", "name": "test", "plugins": [
	{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
	 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/28"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`
	configuration = `[crio.image]
insecure_registries = [%q]
[troupe]
sweep_grace = "5s"
`
)

// addresses is how many pods the network has room for.
const addresses = 13

func rootPath(o *options) string {
	return filepath.Join(o.out, fmt.Sprintf("reboots-root-%d.raw", o.seed))
}

func newMachine(lab *harness.Lab, o *options, registry string) (*blackout.Machine, error) {
	guest, err := blackout.FindGuest(o.cache, o.kernel)
	if err != nil {
		return nil, err
	}
	stage := lab.Path("stage")
	if err := fill(stage, registry); err != nil {
		return nil, err
	}
	root := rootPath(o)
	if err := blackout.Command("cp", "--sparse=always", guest.Base, root); err != nil {
		return nil, err
	}
	if err := putInto(root, stage, lab.Path("debugfs")); err != nil {
		return nil, err
	}
	base, err := lab.Mkdir("base")
	if err != nil {
		return nil, err
	}
	if err := blackout.Command("debugfs", "-R", "rdump /var "+base, guest.Base); err != nil {
		return nil, err
	}
	disk, err := blackout.FormatDisk(lab.Path("var.raw"), "768M", filepath.Join(base, "var"))
	fmt.Printf("seed %d; kernel %s, %s\n", o.seed, guest.Version, guest.Accel)
	return &blackout.Machine{Name: "node", Dir: lab.Dir, Disk: disk, QEMU: []string{
		"-accel", guest.Accel + tcgBuffer(guest), "-cpu", cpu(guest), "-smp", "2", "-m", "2G", "-kernel", guest.Kernel,
		"-append", "console=ttyS0 loglevel=4 root=/dev/nvme0n1 rw rootflags=noinit_itable init=/usr/local/sbin/reboots-init nokaslr mitigations=off audit=0 " +
			"nowatchdog panic=-1 random.trust_cpu=on net.ifnames=0 cgroup_no_v1=all systemd.show_status=0 systemd.mask=vm-run.service",
		"-drive", "if=none,id=root,format=raw,snapshot=on,file=" + root, "-device", "nvme,drive=root,serial=root",
	}}, err
}

func tcgBuffer(g *blackout.Guest) string {
	if g.Accel == "kvm" {
		return ""
	}
	return ",tb-size=512"
}

func cpu(g *blackout.Guest) string {
	if g.Accel == "kvm" {
		return "host"
	}
	return "max,la57=off"
}

// fill installs as an administrator would, below stage.
func fill(stage, registry string) error {
	project, err := harness.ProjectRoot()
	if err != nil {
		return err
	}
	if err := blackout.Command(project+"/packaging/install.sh", stage, "/usr/local"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files := map[string]string{
		"usr/local/sbin/reboots-init":                      initScript,
		"etc/systemd/system/reboots.service":               agentUnit,
		"etc/cni/net.d/10-test.conflist":                   network,
		"etc/troupe/troupe.conf.d/10-test.conf":            fmt.Sprintf(configuration, registry),
		"usr/local/bin/.keep":                              "",
		"etc/systemd/system/multi-user.target.wants/.keep": "",
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(stage, path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(stage, path), []byte(content), 0o755); err != nil {
			return err
		}
	}
	// What `systemctl enable` does.
	for unit, from := range map[string]string{
		"reboots.service": "/etc/systemd/system/", "troupe.service": "/usr/local/lib/systemd/system/", "troupe-monitor.service": "/usr/local/lib/systemd/system/",
	} {
		if err := os.Symlink(from+unit, filepath.Join(stage, "etc/systemd/system/multi-user.target.wants", unit)); err != nil {
			return err
		}
	}
	return blackout.Command("cp", "-L", self, filepath.Join(stage, "usr/local/bin/reboots"))
}

// putInto copies a tree into a disk that is not mounted.
func putInto(disk, tree, script string) error {
	var commands strings.Builder
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		name, relative := filepath.Rel(tree, path)
		if err = errors.Join(err, relative); err != nil || name == "." || e.Name() == ".keep" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		// debugfs resolves only some of its arguments: all is done in place.
		fmt.Fprintf(&commands, "cd /%s\n", filepath.Dir(name))
		switch {
		case e.IsDir():
			fmt.Fprintf(&commands, "mkdir %s\n", e.Name()) // says so when it is there, and goes on
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&commands, "symlink %s %s\n", e.Name(), target)
		default:
			fmt.Fprintf(&commands, "rm %s\nwrite %s %s\nset_inode_field %s mode 0100%o\n", e.Name(), path, e.Name(), e.Name(), info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(script, []byte(commands.String()), 0o600); err != nil {
		return err
	}
	return blackout.Command("debugfs", "-w", "-f", script, disk)
}

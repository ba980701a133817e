package harness

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// Reboot leaves what a restart of the node leaves of a daemon and its pods,
// without a kernel's: no process, no mount, no namespace, no cgroup, no rule of
// the firewall, an empty run directory, and another boot id. Start then is the first start after it.
// undo gives the boot id back.
func (d *Daemon) Reboot() (undo func() error, err error) {
	if d.cmd.ProcessState == nil {
		if err := d.Kill(); err != nil {
			return nil, err
		}
	}
	for _, pid := range d.Monitors() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return nil, err
		}
	}
	killCgroups(d.lab.Name)
	for _, args := range [][]string{{"-t", "nat", "-F"}, {"-t", "nat", "-X"}, {"-F"}, {"-X"}} {
		if out, err := exec.Command("iptables", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("iptables %v: %w: %s", args, err, out)
		}
	}
	errs := []error{removeCgroups(d.lab.Name), unmountBelow(d.Root), unmountBelow(d.Run)}
	entries, err := os.ReadDir(d.Run)
	errs = append(errs, err)
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(d.Run, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("rebooting: %w", err)
	}
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	boot, err := d.lab.Write(fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), fmt.Sprintf("boot-%x", b))
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(boot, bootIDFile, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("another boot id: %w", err)
	}
	return func() error { return unix.Unmount(bootIDFile, unix.MNT_DETACH) }, nil
}

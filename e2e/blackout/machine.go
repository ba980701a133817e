// Package blackout has machines whose power can be cut: a guest of QEMU with a
// disk that has a volatile cache, and a line to the host on which the guest
// tells, as JSON, what it does.
package blackout

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// DataDisk is the disk's name in the guest: the only virtio disk. It is not an
// NVMe, because QEMU's takes FUA for a plain write.
const DataDisk = "vda"

// Modules of the guest's kernel that the disk and the network need, in the
// order of their loading.
const Modules = "failover net_failover virtio_net virtio_blk overlay"

// Machine is a guest from power on to power off, and again.
type Machine struct {
	Name string
	Dir  string   // for its sockets and its console
	QEMU []string // what is this guest's own: processor, memory, kernel, root
	Disk *Disk
}

// Next is what becomes of a machine after something it told.
type Next int

const (
	GoOn   Next = iota
	Cut         // the power is cut now: no later write reaches the disk
	Ending      // it ends by itself; its end is no failure
)

// Run boots the machine, gives it the plan, and hands each line it tells to
// see, until see wants the power cut or fails, or the machine ends. However it
// ends, the machine is off afterwards and no write of it can reach the disk
// any more. Errors have the end of the console in them.
func (m *Machine) Run(ctx context.Context, plan any, limit time.Duration, see func(line []byte) (Next, error)) (err error) {
	b := &boot{machine: m, served: make(chan error, 1)}
	for kind, l := range map[string]*net.Listener{"ctl": &b.ctl, "disk": &b.store} {
		path := m.path(kind)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if *l, err = net.Listen("unix", path); err != nil {
			return err
		}
		defer (*l).Close()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments()...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting QEMU (apt-get install qemu-system-x86): %w", err)
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed is how it is meant to end
		close(gone)
		b.ctl.Close()
		b.store.Close()
	}()
	defer func() {
		m.Disk.Cut()
		_ = cmd.Process.Kill()
		<-gone
		if err != nil {
			err = fmt.Errorf("%w\nQEMU: %s\nconsole: %s", err, complaint.String(), lastLines(m.path("console"), 30))
		}
	}()
	go func() { b.served <- b.serveDisk() }()
	ending, err := b.converse(plan, see)
	if ending {
		select {
		case <-gone:
		case <-ctx.Done():
			err = errors.Join(err, errors.New("the machine was to end by itself and has not"))
		}
	}
	return err
}

func (m *Machine) path(kind string) string { return filepath.Join(m.Dir, m.Name+"."+kind) }

func (m *Machine) arguments() []string {
	return append([]string{
		"-M", "pc", "-bios", "qboot.rom", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + m.path("console"),
		"-blockdev", "driver=nbd,node-name=data,server.type=unix,server.path=" + m.path("disk"),
		"-device", "virtio-blk-pci,drive=data",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=ctl,path=" + m.path("ctl"), "-device", "virtserialport,chardev=ctl,name=ctl",
	}, m.QEMU...)
}

// boot is one run of a machine.
type boot struct {
	machine    *Machine
	ctl, store net.Listener
	served     chan error
}

func (b *boot) serveDisk() error {
	conn, err := b.store.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	return serve(conn, b.machine.Disk)
}

// converse is the host's end of the line. The moment the machine asks for the
// cut, the disk is off: the answer to its last write may never arrive.
func (b *boot) converse(plan any, see func([]byte) (Next, error)) (ending bool, err error) {
	conn, err := b.ctl.Accept()
	if err != nil {
		return false, errors.New("the machine did not start")
	}
	defer conn.Close()
	go func() { // the line is closed by QEMU's end; without its disk the machine only hangs
		if err := <-b.served; err != nil {
			fmt.Fprintf(os.Stderr, "%s: its disk: %v\n", b.machine.Name, err)
			conn.Close()
		}
	}()
	if err := json.NewEncoder(conn).Encode(plan); err != nil {
		return false, err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		next, err := see(lines.Bytes())
		if next == Cut {
			b.machine.Disk.Cut()
			return false, err
		}
		ending = ending || next == Ending
		if err != nil {
			return false, err
		}
	}
	if ending {
		return true, nil
	}
	return false, errors.New("the machine ended by itself or took too long")
}

func lastLines(path string, n int) string {
	text, _ := os.ReadFile(path)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

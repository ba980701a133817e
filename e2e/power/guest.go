package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where things are in the machine. The root is read-only and made anew for
// every run of this program; the disk at data is what lives through the cuts.
const (
	data, runDir = "/data", "/run/troupe"
	imageRoot    = data + "/images"
	socket       = runDir + "/troupe.sock"
	logFile      = data + "/troupe.log" // it survives a cut in part only
	dataDisk     = "vda"                // the only virtio disk
	modules      = "failover net_failover virtio_net virtio_blk overlay"
)

// port is the machine's line to the host.
type port struct {
	mu   sync.Mutex
	file *os.File
	zero time.Time
}

func (p *port) tell(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.After = time.Since(p.zero)
	line, err := json.Marshal(e)
	if err == nil {
		_, err = p.file.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "telling the host:", err) // the console, which the host keeps
	}
}

// beMachine is process 1 of the guest. It never returns: the host ends it.
func beMachine() {
	p, plan, err := boot()
	if err == nil {
		err = obey(p, plan)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "power:", err)
		if p != nil {
			p.tell(Event{Kind: "failed", Error: err.Error()})
		}
	}
	for {
		time.Sleep(time.Hour) // an end of process 1 would be a panic of the kernel's
	}
}

func boot() (*port, *Plan, error) {
	for _, m := range []struct{ kind, at, options string }{
		{"devtmpfs", "/dev", ""},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", ""},
		{"tmpfs", "/root", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return nil, nil, fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, nil, fmt.Errorf("sharing mounts: %w", err)
	}
	for _, name := range strings.Fields(modules) {
		if err := load("/lib/modules/" + name + ".ko"); err != nil {
			return nil, nil, err
		}
	}
	p, err := openPort()
	if err != nil {
		return nil, nil, err
	}
	var plan Plan
	line, err := bufio.NewReader(p.file).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &plan)
	}
	return p, &plan, errors.Join(err, network(), mountData())
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("loading %s: %w", module, err)
	}
	return nil
}

func openPort() (*port, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	if len(names) != 1 {
		return nil, fmt.Errorf("there are %d virtio ports", len(names))
	}
	f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(names[0])), os.O_RDWR, 0)
	return &port{file: f, zero: time.Now()}, err
}

// network is the address that QEMU's user network expects; the host is 10.0.2.2.
func network() error {
	for name, address := range map[string]string{"lo": "", "eth0": "10.0.2.15/24"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		if address != "" {
			a, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("address of %s: %w", name, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// mountData mounts the disk, which replays its journal. A file system that
// finds fault with itself means that the disk or this program is wrong, not
// Troupe; on a disk that claims to have no cache nothing would be flushed. FUA
// must not be claimed either: QEMU's NVMe claims it and passes on plain writes,
// so that the journal's last commit is lost with the cache.
func mountData() error {
	for name, want := range map[string]string{"write_cache": "write back", "fua": "0"} {
		got, err := os.ReadFile("/sys/block/" + dataDisk + "/queue/" + name)
		if err != nil || strings.TrimSpace(string(got)) != want {
			return fmt.Errorf("the disk's %s is %q, want %s: %w", name, got, want, err)
		}
	}
	if err := unix.Mount("/dev/"+dataDisk, data, "ext4", 0, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting the disk: %w", err)
	}
	return fileSystemErrors()
}

func fileSystemErrors() error {
	path := "/sys/fs/ext4/" + dataDisk + "/errors_count"
	if count, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(count)) != "0" {
		return fmt.Errorf("%s is %q: %w", path, count, err)
	}
	return nil
}

const configuration = `[crio]
root = "` + imageRoot + `"
runroot = "` + runDir + `/images"
storage_driver = "overlay"
[crio.api]
listen = "` + socket + `"
[crio.runtime]
cgroup_manager = "cgroupfs"
log_level = "info"
[crio.image]
insecure_registries = [%q]
[crio.network]
network_dir = "/run/net.d"
plugin_dirs = ["/run/cni"]
[crio.nri]
enable_nri = false
[troupe]
root = "` + data + `/troupe"
run = "` + runDir + `"
`

// startDaemon starts Troupe as on a node after a reboot.
func startDaemon(plan *Plan) error {
	for _, dir := range []string{"/run/net.d", "/run/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/run/troupe.conf", fmt.Appendf(nil, configuration, plan.Registry), 0o644); err != nil {
		return err
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("/bin/troupe", "--config", "/run/troupe.conf")
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Start()
}

// tail is for the reader of a failure.
func tail(lines int) string {
	text, _ := os.ReadFile(logFile)
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

package blackout

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway is the host as the guest sees it: QEMU's name for it.
const Gateway = "10.0.2.2"

// Port is the guest's end of the line.
type Port struct {
	mu   sync.Mutex
	file *os.File
	zero time.Time
}

// OpenPort finds the line, whose driver must be there, and reads the plan.
func OpenPort(plan any) (*Port, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	if len(names) != 1 {
		return nil, fmt.Errorf("there are %d virtio ports", len(names))
	}
	f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(names[0])), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p := &Port{file: f, zero: time.Now()}
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, plan)
	}
	return p, err
}

// Tell sends a line; after gives the event its time since the line was opened.
func (p *Port) Tell(after func(time.Duration) any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, err := json.Marshal(after(time.Since(p.zero)))
	if err == nil {
		_, err = p.file.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "telling the host:", err) // the console, which the host keeps
	}
}

// Load loads a kernel module.
func Load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading %s: %w", module, err)
	}
	return nil
}

// Network is the address that QEMU's user network expects.
func Network() error {
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
			if err := netlink.AddrReplace(link, a); err != nil {
				return fmt.Errorf("address of %s: %w", name, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// HasCache says whether the guest's kernel believes that the disk has a cache:
// without one nothing would be flushed. FUA must not be claimed either: QEMU
// would pass it on as a plain write, and the journal's last commit would be
// lost with the cache.
func HasCache() error {
	for name, want := range map[string]string{"write_cache": "write back", "fua": "0"} {
		got, err := os.ReadFile("/sys/block/" + DataDisk + "/queue/" + name)
		if err != nil || strings.TrimSpace(string(got)) != want {
			return fmt.Errorf("the disk's %s is %q, want %s: %w", name, got, want, err)
		}
	}
	return nil
}

// FileSystemErrors is an error when the disk's file system finds fault with
// itself: then the disk or the test is wrong, not Troupe.
func FileSystemErrors() error {
	path := "/sys/fs/ext4/" + DataDisk + "/errors_count"
	if count, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(count)) != "0" {
		return fmt.Errorf("%s is %q: %w", path, count, err)
	}
	return nil
}

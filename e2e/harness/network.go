package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is a CNI network of the lab's own: a bridge that is its alone, and a
// configuration directory for the daemon.
type Network struct {
	Bridge    string
	Subnet    string
	Addresses string // where host-local keeps what it handed out
	NoPortmap bool   // the list that Configure writes has no plugin for host ports
	NoMasq    bool   // pods' packets leave with their own addresses: no iptables rule for each
	Plugin    string // stands in the list instead of "bridge"
	dir       string
	lab       *Lab
}

// PluginDirs are where distributions put CNI plugins: Debian, Fedora and RHEL,
// and the place the CNI project names.
var PluginDirs = []string{"/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"}

// NewNetwork prepares a network; Configure makes it known to the daemon.
func (l *Lab) NewNetwork() (*Network, error) {
	n := &Network{Bridge: "tr-" + filepath.Base(l.Dir), Subnet: "10.123.0.0/16", Addresses: l.Path("cni", "ipam"), lab: l}
	dir, err := l.Mkdir("cni", "net.d")
	n.dir = dir
	l.OnClose(n.removeBridge)
	return n, err
}

// Dir is the daemon's network_dir.
func (n *Network) Dir() string { return n.dir }

// Configure writes the network's configuration list.
func (n *Network) Configure() error {
	portmap := `,
    {"type": "portmap", "capabilities": {"portMappings": true}}`
	if n.NoPortmap {
		portmap = ""
	}
	_, err := n.lab.Write(fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": %q,
  "plugins": [
    {%s}%s
  ]
}
`, n.lab.Name, n.first(), portmap), "cni", "net.d", "10-lab.conflist")
	return err
}

// first is the configuration of the first plugin, without braces.
func (n *Network) first() string {
	return fmt.Sprintf(`"type": %q, "bridge": %q, "isGateway": true, "ipMasq": %t, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}`,
		cmp.Or(n.Plugin, "bridge"), n.Bridge, !n.NoMasq, n.Addresses, n.Subnet)
}

// Floor attaches a network namespace and detaches it again by calling the first
// plugin and nothing else: what both take is no runtime's.
func (n *Network) Floor(ctx context.Context) (add, del time.Duration, err error) {
	pin, err := n.lab.Write("", "cni", "floor")
	if err != nil {
		return 0, 0, err
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--net="+pin, "true").CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("a network namespace for the floor: %w: %s", err, out)
	}
	defer func() { err = errors.Join(err, unix.Unmount(pin, unix.MNT_DETACH)) }()
	plugin := cmp.Or(n.Plugin, "bridge")
	i := slices.IndexFunc(PluginDirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, plugin)); return err == nil })
	if i < 0 {
		return 0, 0, fmt.Errorf("CNI plugin %s is in none of %v: run 'make setup'", plugin, PluginDirs)
	}
	call := func(command string) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(PluginDirs[i], plugin))
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, %s}`, n.lab.Name, n.first()))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=floor", "CNI_NETNS="+pin, "CNI_IFNAME=eth0", "CNI_PATH="+strings.Join(PluginDirs, ":"))
		begun := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("CNI %s of the floor: %w: %s", command, err, out)
		}
		return time.Since(begun), nil
	}
	if add, err = call("ADD"); err != nil {
		return 0, 0, err
	}
	del, err = call("DEL")
	return add, del, err
}

// Unconfigure takes the configuration away again.
func (n *Network) Unconfigure() error { return os.Remove(filepath.Join(n.dir, "10-lab.conflist")) }

// removeBridge removes what the bridge plugin keeps when the last pod has gone.
func (n *Network) removeBridge() error {
	link, err := netlink.LinkByName(n.Bridge)
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

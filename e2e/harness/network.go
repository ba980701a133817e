package harness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
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
    {"type": %q, "bridge": %q, "isGateway": true, "ipMasq": %t, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}%s
  ]
}
`, n.lab.Name, cmp.Or(n.Plugin, "bridge"), n.Bridge, !n.NoMasq, n.Addresses, n.Subnet, portmap), "cni", "net.d", "10-lab.conflist")
	return err
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

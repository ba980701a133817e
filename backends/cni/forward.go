package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types/100"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host ports need no plugin: where no plugin of the network has the capability
// portMappings, Troupe redirects them itself, by rules in a table of nftables
// that is this daemon's own (nftables.go). What is redirected stands in the
// claim of the ports (hostports.go) before the rules are made, so that a later
// daemon can take them back, and put them back when somebody flushed them.

// forward leads a port of the node to a port of the pod, for one family.
type forward struct {
	Protocol string       `json:"protocol"` // tcp, udp, sctp
	HostIP   netip.Addr   `json:"hostIP"`   // invalid: every address of the node
	HostPort uint16       `json:"hostPort"`
	PodIP    netip.Addr   `json:"podIP"`
	PodPort  uint16       `json:"podPort"`
	Subnet   netip.Prefix `json:"subnet"` // of the pod's address: who answers past the node
}

// mapsPorts says whether a plugin of the network maps host ports.
func mapsPorts(n *network) bool {
	return slices.ContainsFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities["portMappings"] })
}

// forwardPorts redirects the host ports of a pod that has just been attached.
func (b *Backend) forwardPorts(n *network, r backends.NetworkRequest, result *cnitypes.Result) error {
	if mapsPorts(n) || len(hostPorts(r)) == 0 {
		return nil
	}
	forwards, err := b.forwards(r, result)
	if err != nil || len(forwards) == 0 {
		return err
	}
	b.ports.Lock()
	defer b.ports.Unlock()
	if err := b.saveClaim(r.Pod, claim{Ports: hostPorts(r), Forwards: forwards}); err != nil {
		return err
	}
	if err := b.forwarder.add(r.Pod, forwards); err != nil {
		return fmt.Errorf("forward the host ports of pod %s: %w", podName(r), err)
	}
	b.openLoopback(r.Pod, forwards)
	b.cutStale(forwards)
	return nil
}

// forwards pairs each mapping with the pod's first address of each family.
func (b *Backend) forwards(r backends.NetworkRequest, result *cnitypes.Result) ([]forward, error) {
	var pods []netip.Prefix
	for _, ip := range result.IPs {
		p, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return nil, fmt.Errorf("the address %s of pod %s: %w", ip.Address.String(), podName(r), err)
		}
		if !slices.ContainsFunc(pods, func(o netip.Prefix) bool { return o.Addr().Is4() == p.Addr().Is4() }) {
			pods = append(pods, p)
		}
	}
	var all []forward
	mappings := mapped(r)
	for i, port := range hostPorts(r) {
		before := len(all)
		host, _ := netip.ParseAddr(mappings[i].GetHostIp()) // invalid when there is none
		host = host.Unmap()
		for _, pod := range pods {
			if host.IsValid() && host.Is4() != pod.Addr().Is4() {
				continue
			}
			f := forward{
				Protocol: port.Protocol, HostIP: host, HostPort: uint16(port.Port),
				PodIP: pod.Addr(), PodPort: uint16(mappings[i].GetContainerPort()), Subnet: pod.Masked(),
			}
			if host.IsValid() && host.IsUnspecified() { // every address of that family
				f.HostIP = netip.Addr{}
			}
			all = append(all, f)
		}
		if len(all) == before {
			b.config.Log.Warn("a host port leads nowhere: the pod has no address of its family", "pod", r.Pod, "port", port.String())
		}
	}
	return all, nil
}

// unforwardPorts takes the redirection back; the claim stays until the pod is
// detached as a whole.
func (b *Backend) unforwardPorts(pod string) error {
	b.ports.Lock()
	defer b.ports.Unlock()
	c, err := b.readClaim(pod)
	if err != nil {
		b.config.Log.Warn("a claim of host ports cannot be read", "pod", pod, "error", err)
	}
	if len(c.Forwards) > 0 { // first, or heal would put them back
		if err := b.saveClaim(pod, claim{Ports: c.Ports}); err != nil {
			return err
		}
	}
	if err := b.forwarder.remove(pod); err != nil {
		return fmt.Errorf("take back the host ports of pod %s: %w", pod, err)
	}
	b.cutStale(c.Forwards)
	return nil
}

// heal puts back the rules of pods whose rules have gone: a firewall that is
// restarted flushes those of everybody.
func (b *Backend) heal() {
	b.ports.Lock()
	defer b.ports.Unlock()
	claims, err := b.portClaims()
	if err != nil {
		b.config.Log.Warn("cannot look after the rules of host ports", "error", err)
		return
	}
	var have map[string]bool
	for pod, c := range claims {
		if len(c.Forwards) == 0 {
			continue
		}
		if have == nil { // most nodes have no such pod and are not asked
			if have, err = b.forwarder.pods(); err != nil {
				b.config.Log.Warn("cannot look after the rules of host ports", "error", err)
				return
			}
		}
		if have[pod] {
			continue
		}
		if err := b.forwarder.add(pod, c.Forwards); err != nil {
			b.config.Log.Warn("the rules of a pod's host ports have gone and cannot be put back", "pod", pod, "error", err)
			continue
		}
		b.config.Log.Warn("the rules of a pod's host ports had gone (a firewall's restart?); they are back", "pod", pod)
	}
}

// openLoopback lets connections from 127.0.0.1 leave by the interface the pod
// is behind, as the portmap plugin does; the table drops what comes in for
// 127.0.0.0/8 from elsewhere, which the kernel then no longer does. Without it
// the port works from everywhere but 127.0.0.1.
func (b *Backend) openLoopback(pod string, forwards []forward) {
	for _, f := range forwards {
		if !f.PodIP.Is4() || f.HostIP.IsValid() && !f.HostIP.IsLoopback() {
			continue // IPv6 has no such switch: [::1] is not forwarded
		}
		if err := routeLoopback(f.PodIP); err != nil {
			b.config.Log.Warn("host ports are not reachable at 127.0.0.1", "pod", pod, "error", err)
		}
		return
	}
}

func routeLoopback(to netip.Addr) error {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return fmt.Errorf("find the way to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return fmt.Errorf("no route to %s", to)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return fmt.Errorf("find the interface to %s: %w", to, err)
	}
	path := filepath.Join("/proc/sys/net/ipv4/conf", link.Attrs().Name, "route_localnet")
	if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == "1" {
		return nil
	}
	return os.WriteFile(path, []byte("1"), 0o644)
}

// cutStale makes the kernel forget UDP flows to the ports: a client that keeps
// sending would else go on reaching what was there before. TCP notices itself.
func (b *Backend) cutStale(forwards []forward) {
	for _, f := range forwards {
		if f.Protocol != "udp" {
			continue
		}
		family := netlink.InetFamily(unix.AF_INET)
		if !f.PodIP.Is4() {
			family = unix.AF_INET6
		}
		filter := &netlink.ConntrackFilter{}
		err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, f.HostPort))
		if err == nil {
			_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		}
		if err != nil {
			b.config.Log.Debug("old UDP flows to a host port are not forgotten", "port", f.HostPort, "error", err)
		}
	}
}

// unsupported tells what is missing when the kernel refuses a rule.
func unsupported(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return messages.Errorf(messages.Unavailable, "the kernel refuses the rules (nf_tables with inet nat, fib, ct and masq is needed; or add the plugin portmap to the network): %w", err)
	}
	return err
}

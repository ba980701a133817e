package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostPort is one port of the node that belongs to a pod.
type hostPort struct {
	Protocol string `json:"protocol"` // tcp, udp, sctp
	IP       string `json:"ip"`       // empty: every address
	Port     int32  `json:"port"`
}

func (p hostPort) String() string {
	return net.JoinHostPort(p.IP, strconv.Itoa(int(p.Port))) + "/" + p.Protocol
}

func (p hostPort) overlaps(o hostPort) bool {
	return p.Protocol == o.Protocol && p.Port == o.Port && (p.IP == "" || o.IP == "" || p.IP == o.IP)
}

// mapped are the port mappings that ask for a port of the node; the others
// only declare one of the pod.
func mapped(r backends.NetworkRequest) []*runtime.PortMapping {
	return slices.DeleteFunc(slices.Clone(r.PortMappings), func(m *runtime.PortMapping) bool { return m.GetHostPort() <= 0 })
}

// hostPorts are those of mapped, in its order.
func hostPorts(r backends.NetworkRequest) []hostPort {
	var ports []hostPort
	for _, m := range mapped(r) {
		p := hostPort{Protocol: "tcp", IP: m.GetHostIp(), Port: m.GetHostPort()}
		switch m.GetProtocol() {
		case runtime.Protocol_UDP:
			p.Protocol = "udp"
		case runtime.Protocol_SCTP:
			p.Protocol = "sctp"
		}
		if a, err := netip.ParseAddr(p.IP); err == nil && a.IsUnspecified() {
			p.IP = ""
		}
		ports = append(ports, p)
	}
	return ports
}

func (b *Backend) portsDir() string { return filepath.Join(b.config.CacheDir, "ports") }

// claimPorts reserves a pod's host ports. Plugins redirect a port without
// asking whose it is: the first pod, or a service of the node, would silently
// lose its traffic to the second.
func (b *Backend) claimPorts(r backends.NetworkRequest) error {
	wanted := hostPorts(r)
	if len(wanted) == 0 {
		return nil
	}
	b.ports.Lock()
	defer b.ports.Unlock()
	claims, err := b.portClaims()
	if err != nil {
		return err
	}
	for _, w := range wanted {
		for pod, owned := range claims {
			for _, o := range owned.Ports {
				if pod != r.Pod && w.overlaps(o) {
					return messages.Errorf(messages.Precondition, "attach pod %s: host port %s is in use by pod %s: choose another port or remove that pod", podName(r), w, pod)
				}
			}
		}
		if err := bindable(w); err != nil {
			return messages.Errorf(messages.Precondition, "attach pod %s: host port %s is in use by a process of the node: choose another port or stop it (ss -lp shows it): %w", podName(r), w, err)
		}
	}
	return b.saveClaim(r.Pod, claim{Ports: wanted})
}

// claim is the file ports/<pod>.
type claim struct {
	Ports    []hostPort `json:"ports"`
	Forwards []forward  `json:"forwards,omitempty"` // which Troupe itself redirects
}

func (b *Backend) saveClaim(pod string, c claim) error {
	content, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("claim host ports: %w", err)
	}
	if err := os.MkdirAll(b.portsDir(), 0o700); err != nil {
		return diskError("claim host ports", err)
	}
	path := filepath.Join(b.portsDir(), pod)
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		_ = os.Remove(path + ".new")
		return diskError("claim host ports", err)
	}
	return nil
}

// readClaim gives an empty claim when there is none.
func (b *Backend) readClaim(pod string) (claim, error) {
	var c claim
	content, err := backends.ReadFile(filepath.Join(b.portsDir(), pod))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil && len(content) > 0 && content[0] == '[' { // before there were forwards
		return c, json.Unmarshal(content, &c.Ports)
	}
	if err == nil {
		err = json.Unmarshal(content, &c)
	}
	return c, err
}

func (b *Backend) portClaims() (map[string]claim, error) {
	pods, err := b.claimants()
	if err != nil {
		return nil, err
	}
	claims := map[string]claim{}
	for _, pod := range pods {
		c, err := b.readClaim(pod)
		if err != nil {
			b.config.Log.Warn("a claim of host ports cannot be read and is not honoured", "pod", pod, "error", err)
			continue
		}
		claims[pod] = c
	}
	return claims, nil
}

// claimants are the pods with a claim.
func (b *Backend) claimants() ([]string, error) {
	entries, err := os.ReadDir(b.portsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the claims of host ports: %w", err)
	}
	var pods []string
	for _, e := range entries {
		if backends.CheckID("pod", e.Name()) == nil { // else it was cut off while it was written
			pods = append(pods, e.Name())
		}
	}
	return pods, nil
}

func (b *Backend) releasePorts(pod string) error {
	b.ports.Lock()
	defer b.ports.Unlock()
	if err := os.RemoveAll(filepath.Join(b.portsDir(), pod)); err != nil {
		return fmt.Errorf("release the host ports of pod %s: %w", pod, err)
	}
	return nil
}

// bindable tries the port for a moment. SCTP is not tried: Go has no socket for
// it and few nodes have the module.
func bindable(p hostPort) error {
	address := net.JoinHostPort(p.IP, strconv.Itoa(int(p.Port)))
	switch p.Protocol {
	case "tcp":
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		return l.Close()
	case "udp":
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return nil
}

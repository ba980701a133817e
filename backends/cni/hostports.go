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

func hostPorts(r backends.NetworkRequest) []hostPort {
	var ports []hostPort
	for _, m := range r.PortMappings {
		if m.GetHostPort() == 0 {
			continue
		}
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
			for _, o := range owned {
				if pod != r.Pod && w.overlaps(o) {
					return messages.Errorf(messages.Precondition, "attach pod %s: host port %s is in use by pod %s: choose another port or remove that pod", podName(r), w, pod)
				}
			}
		}
		if err := bindable(w); err != nil {
			return messages.Errorf(messages.Precondition, "attach pod %s: host port %s is in use by a process of the node: choose another port or stop it (ss -lp shows it): %w", podName(r), w, err)
		}
	}
	content, err := json.Marshal(wanted)
	if err != nil {
		return fmt.Errorf("claim host ports: %w", err)
	}
	if err := os.MkdirAll(b.portsDir(), 0o700); err != nil {
		return diskError("claim host ports", err)
	}
	path := filepath.Join(b.portsDir(), r.Pod)
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		_ = os.Remove(path + ".new")
		return diskError("claim host ports", err)
	}
	return nil
}

func (b *Backend) portClaims() (map[string][]hostPort, error) {
	entries, err := os.ReadDir(b.portsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the claims of host ports: %w", err)
	}
	claims := map[string][]hostPort{}
	for _, e := range entries {
		if backends.CheckID("pod", e.Name()) != nil {
			continue // cut off while it was written
		}
		content, err := os.ReadFile(filepath.Join(b.portsDir(), e.Name()))
		var ports []hostPort
		if err == nil {
			err = json.Unmarshal(content, &ports)
		}
		if err != nil {
			b.config.Log.Warn("a claim of host ports cannot be read and is not honoured", "pod", e.Name(), "error", err)
			continue
		}
		claims[e.Name()] = ports
	}
	return claims, nil
}

func (b *Backend) releasePorts(pod string) error {
	b.ports.Lock()
	defer b.ports.Unlock()
	if err := os.Remove(filepath.Join(b.portsDir(), pod)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

package cni_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// web is a pod that serves on 8080 of both its addresses and, without any
// plugin's help, on host port 18080.
func (n *node) web(b interface {
	Attach(context.Context, backends.NetworkRequest) (backends.NetworkResult, error)
}, ports ...*cri.PortMapping,
) (backends.NetworkRequest, []string) {
	n.t.Helper()
	r := n.pod()
	r.PortMappings = ports
	result, err := b.Attach(n.t.Context(), r)
	ok(n.t, err)
	listen(n.t, r.NetNS, ":8080")
	return r, result.IPs
}

func (n *node) tables() string { n.t.Helper(); return n.run("nft", "list", "ruleset", "inet") }

func TestAHostPortNeedsNoPlugin(t *testing.T) {
	n := newNode(t)
	n.run("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0") // the bridge's address is of use at once
	n.write("10-bridge.conflist", n.bridged("ports"))
	b := n.backend()
	web, ips := n.web(b, &cri.PortMapping{ContainerPort: 8080, HostPort: 18080}, &cri.PortMapping{ContainerPort: 9090})
	client, _ := n.web(b)
	gateway6 := strings.Fields(n.run("sh", "-c", "ip -6 -o address show dev "+bridge+" scope global | awk '{print $4}' | cut -d/ -f1"))[0]
	for _, at := range []string{gateway + ":18080", "127.0.0.1:18080", "[" + gateway6 + "]:18080"} {
		talk(t, at)
	}
	for who, ns := range map[string]string{"itself": web.NetNS, "a neighbour": client.NetNS} {
		for _, at := range []string{gateway + ":18080", "[" + gateway6 + "]:18080"} {
			t.Log("from " + who + " to " + at)
			within(t, ns, func() { talk(t, at) })
		}
	}
	nobodyReachesTheLoopbackFrom(t, client.NetNS)
	if rules := n.tables(); !strings.Contains(rules, "ports-"+web.Pod) || !strings.Contains(rules, ips[0]) {
		t.Errorf("the rules do not name the pod:\n%s", rules)
	}
	ok(t, b.Detach(t.Context(), web))
	ok(t, b.Detach(t.Context(), web))
	ok(t, b.Detach(t.Context(), client))
	if rules := n.tables(); rules != "" {
		t.Errorf("rules are left:\n%s", rules)
	}
	if c, err := net.DialTimeout("tcp", gateway+":18080", time.Second); err == nil {
		_ = c.Close()
		t.Error("the port is still open")
	}
}

func TestAHostPortOfOneAddressIsOpenOnThatAlone(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("address"))
	n.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	b := n.backend()
	web, _ := n.web(b, &cri.PortMapping{ContainerPort: 8080, HostPort: 18080, HostIp: "192.0.2.1"})
	other, _ := n.web(b, &cri.PortMapping{ContainerPort: 8080, HostPort: 18080, HostIp: "127.0.0.1"})
	talk(t, "192.0.2.1:18080")
	talk(t, "127.0.0.1:18080")
	if c, err := net.DialTimeout("tcp", gateway+":18080", time.Second); err == nil {
		_ = c.Close()
		t.Error("it is open on another address too")
	}
	ok(t, b.Detach(t.Context(), other))
	talk(t, "192.0.2.1:18080") // the other pod's going has taken nothing of it
	ok(t, b.Detach(t.Context(), web))
}

func TestUDPAndSCTPAreForwardedToo(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("protocols"))
	b := n.backend()
	web, _ := n.web(b,
		&cri.PortMapping{Protocol: cri.Protocol_UDP, ContainerPort: 5353, HostPort: 15353},
		&cri.PortMapping{Protocol: cri.Protocol_SCTP, ContainerPort: 132, HostPort: 10132})
	var echo net.PacketConn
	within(t, web.NetNS, func() {
		var err error
		echo, err = net.ListenPacket("udp", ":5353")
		ok(t, err)
	})
	defer func() { ok(t, echo.Close()) }()
	go func() {
		buf := make([]byte, 64)
		for {
			size, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buf[:size], from)
		}
	}()
	c, err := net.Dial("udp", gateway+":15353")
	ok(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("hello"))
	ok(t, err)
	ok(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 64)
	if size, err := c.Read(buf); err != nil || string(buf[:size]) != "hello" {
		t.Errorf("the echo is %q (%v)", buf[:size], err)
	}
	if rules := n.tables(); !strings.Contains(rules, "sctp dport 10132") {
		t.Errorf("no rule for SCTP:\n%s", rules)
	}
	ok(t, b.Detach(t.Context(), web))
}

func TestRulesOfADeadDaemonAreFoundAndThoseAFirewallFlushedComeBack(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("later"))
	web, _ := n.web(n.backend(), &cri.PortMapping{ContainerPort: 8080, HostPort: 18080})
	n.run("nft", "flush", "ruleset")
	next := n.backend() // the next daemon
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = next.Watch(ended, func() {}) // looks once before it ends
	talk(t, gateway+":18080")
	ok(t, os.RemoveAll(n.cache)) // nothing is known of the pod but its rules
	held, err := next.Held(t.Context())
	ok(t, err)
	if len(held) != 1 || held[0].Pod != web.Pod || held[0].Kind != "hostport" {
		t.Fatalf("held: %v", held)
	}
	ok(t, next.Drop(t.Context(), held[0]))
	if rules := n.tables(); rules != "" {
		t.Errorf("rules are left:\n%s", rules)
	}
}

func TestTheNodesPodCIDRReachesPluginsThatTakeItAlsoFromTheNextDaemon(t *testing.T) {
	n := newNode(t)
	n.write("10-ptp.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"told","plugins":[
		{"type":"ptp","capabilities":{"ipRanges":true},"ipam":{"type":"host-local","dataDir":%q}}]}`, n.store))
	ok(t, n.backend().SetRanges(t.Context(), []netip.Prefix{netip.MustParsePrefix("10.77.3.0/24"), netip.MustParsePrefix("fd77:3::/64")}))
	ips := n.attached(n.backend(), n.pod())
	if len(ips) != 2 || !strings.HasPrefix(ips[0], "10.77.3.") || !strings.HasPrefix(ips[1], "fd77:3::") {
		t.Errorf("addresses %v", ips)
	}
}

func TestTheBandwidthOfThePodsAnnotationIsTheRealPluginsLimit(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("shaped", `{"type":"bandwidth","capabilities":{"bandwidth":true}}`))
	b, r := n.backend(), n.pod()
	r.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "8M"}
	n.attached(b, r)
	if shaped := n.run("tc", "qdisc", "show"); !strings.Contains(shaped, "tbf") || !strings.Contains(shaped, "rate 8Mbit") {
		t.Errorf("no limit:\n%s", shaped)
	}
}

// within runs f on a thread in another network namespace.
func within(t *testing.T, ns string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		at, err := os.Open(ns)
		if err == nil {
			err = unix.Setns(int(at.Fd()), unix.CLONE_NEWNET)
			_ = at.Close()
		}
		if err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// nobodyReachesTheLoopbackFrom: what the kernel does by itself must hold on
// although 127.0.0.1 is routed now.
func nobodyReachesTheLoopbackFrom(t *testing.T, ns string) {
	here, err := net.Listen("tcp", "127.0.0.1:7777")
	ok(t, err)
	defer func() { ok(t, here.Close()) }()
	within(t, ns, func() {
		n := &node{t: t}
		n.run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
		n.run("ip", "address", "flush", "dev", "lo")
		n.run("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
		n.run("ip", "route", "add", "127.0.0.1/32", "via", gateway)
		c, err := net.DialTimeout("tcp", "127.0.0.1:7777", 300*time.Millisecond)
		if err == nil {
			_ = c.Close()
			t.Error("a pod reaches what listens on the node's 127.0.0.1")
		}
	})
}

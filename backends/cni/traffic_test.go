package cni_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAPodGetsBothAddressesInOrderAndLoopbackAndCanBeReached(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("dual"))
	b, r := n.backend(), n.pod()
	ips := n.attached(b, r)
	if len(ips) != 2 || !strings.HasPrefix(ips[0], "10.241.7.") || !strings.HasPrefix(ips[1], "fd24:1:") {
		t.Fatalf("addresses %v", ips)
	}
	seen := n.run("nsenter", "--net="+r.NetNS, "ip", "address")
	for _, want := range append(ips, "127.0.0.1", "eth0") {
		if !strings.Contains(seen, want) {
			t.Errorf("no %s in the pod:\n%s", want, seen)
		}
	}
	if out := n.run("ip", "address", "show", bridge); !strings.Contains(out, gateway) {
		t.Errorf("no gateway on the bridge: %s", out)
	}
	listen(t, r.NetNS, ":8080")
	talk(t, net.JoinHostPort(ips[0], "8080"))
}

func TestAHostPortLeadsToThePodAndItsRulesGoWithIt(t *testing.T) {
	n := newNode(t)
	n.write("10-bridge.conflist", n.bridged("ports", `{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`))
	b, r := n.backend(), n.pod()
	r.PortMappings = []*cri.PortMapping{{ContainerPort: 8080, HostPort: 18080}}
	_, err := b.Attach(t.Context(), r)
	ok(t, err)
	listen(t, r.NetNS, ":8080")
	talk(t, gateway+":18080")
	unpin(r.NetNS)
	ok(t, b.Detach(t.Context(), r))
	if rules := n.run("iptables-save", "-t", "nat"); strings.Contains(rules, "18080") || strings.Contains(rules, "CNI-DN-") {
		t.Errorf("rules are left:\n%s", rules)
	}
}

func TestOtherPluginsWorkToo(t *testing.T) {
	n := newNode(t)
	n.write("10-ptp.conflist", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"pointtopoint","plugins":[
		{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":%q,"subnet":%q}},{"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}]}`, n.store, subnet))
	b, r := n.backend(), n.pod()
	ips := n.attached(b, r)
	listen(t, r.NetNS, ":8080")
	talk(t, net.JoinHostPort(ips[0], "8080"))
}

// listen serves on an address in a namespace: it says "hello".
func listen(t *testing.T, ns, address string) {
	t.Helper()
	opened := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // never unlocked
		var l net.Listener
		f, err := os.Open(ns)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
		if err != nil {
			t.Error(err)
		}
		opened <- l
	}()
	l := <-opened
	if l == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
}

func talk(t *testing.T, address string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	ok(t, err)
	defer func() { _ = c.Close() }()
	if said, err := io.ReadAll(c); err != nil || string(said) != "hello" {
		t.Errorf("%s says %q (%v)", address, said, err)
	}
}

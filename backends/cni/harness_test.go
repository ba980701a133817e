package cni_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/cni"
	"github.com/troupe-run/troupe/backends/conformance"
	"golang.org/x/sys/unix"
)

// plugins is where Debian's containernetworking-plugins are.
const plugins = "/usr/lib/cni"

// node is a machine of the test's own: a network namespace in the part of the
// node's, and directories. Plugins run in it because a process starts in the
// namespaces of the thread that starts it; so nothing is left on this machine,
// no bridge, no iptables rule, no sysctl.
type node struct {
	t                         *testing.T
	conf, cache, store, extra string // directories; extra is for plugins of the test
}

const (
	bridge  = "troupe0"
	subnet  = "10.241.7.0/24"
	gateway = "10.241.7.1"
	subnet6 = "fd24:1::/64"
)

// newNode must be called in the goroutine that attaches and detaches.
func newNode(t *testing.T) *node {
	t.Helper()
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Fatalf("apt-get install containernetworking-plugins: %v", err)
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ok(t, unix.Unshare(unix.CLONE_NEWNET))
	n := &node{t: t, conf: t.TempDir(), cache: t.TempDir(), store: t.TempDir(), extra: t.TempDir()}
	n.run("ip", "link", "set", "lo", "up")
	return n
}

func (n *node) run(command ...string) string {
	n.t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v: %v: %s", command, err, out)
	}
	return string(out)
}

func (n *node) write(file, content string) {
	n.t.Helper()
	ok(n.t, os.WriteFile(filepath.Join(n.conf, file), []byte(content), 0o600))
}

// bridged is a list with the real bridge and host-local and what else is given.
func (n *node) bridged(name string, more ...string) string {
	first := fmt.Sprintf(`{"type":"bridge","bridge":%q,"isGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":%q,
		"ranges":[[{"subnet":%q}],[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}`, bridge, n.store, subnet, subnet6)
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[%s]}`, name, strings.Join(append([]string{first}, more...), ","))
}

// script makes a plugin of the test's own; its stdin is in $input.
func (n *node) script(name, body string) {
	n.t.Helper()
	ok(n.t, os.WriteFile(filepath.Join(n.extra, name), []byte("#!/bin/sh\ninput=$(cat)\n"+body), 0o755))
}

func (n *node) backend(change ...func(*cni.Config)) *cni.Backend {
	c := cni.Config{ConfDir: n.conf, PluginDirs: []string{n.extra, plugins}, CacheDir: n.cache}
	for _, f := range change {
		f(&c)
	}
	b := cni.New(c)
	n.t.Cleanup(func() {
		held, err := b.Held(context.Background())
		if err != nil || len(held) > 0 {
			n.t.Errorf("still held: %v (%v)", held, err)
		}
	})
	return b
}

// leases are the addresses host-local has given away.
func (n *node) leases() []string {
	found, _ := filepath.Glob(filepath.Join(n.store, "*", "*[.:]*"))
	var leases []string
	for _, f := range found {
		if net.ParseIP(filepath.Base(f)) != nil {
			leases = append(leases, filepath.Base(f))
		}
	}
	return leases
}

// pin makes a network namespace, on a thread that ends with it, and pins it.
func pin(t *testing.T, path string) {
	t.Helper()
	ok(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not be used again
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	ok(t, <-done)
	t.Cleanup(func() { unpin(path) })
}

func unpin(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

func (n *node) pod() backends.NetworkRequest {
	n.t.Helper()
	pod := conformance.ID(n.t)
	path := filepath.Join(n.t.TempDir(), pod)
	pin(n.t, path)
	return backends.NetworkRequest{Pod: pod, Name: "web-0", Namespace: "shop", UID: "uid-1", NetNS: path}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// attached attaches a pod and sees to it that it is detached in the end.
func (n *node) attached(b *cni.Backend, r backends.NetworkRequest) []string {
	n.t.Helper()
	result, err := b.Attach(n.t.Context(), r)
	n.t.Cleanup(func() { ok(n.t, b.Detach(context.Background(), r)) })
	ok(n.t, err)
	return result.IPs
}

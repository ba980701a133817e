package namespaces_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/namespaces"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func backend(t *testing.T, defaults ...string) (*namespaces.Backend, string) {
	dir := t.TempDir()
	b, err := namespaces.New(namespaces.Config{Dir: dir, DefaultSysctls: defaults})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		held, err := b.Held(context.Background())
		if err != nil {
			t.Error(err)
		}
		for _, h := range held {
			if err := b.Drop(context.Background(), h); err != nil {
				t.Error(err)
			}
		}
	})
	return b, dir
}

func TestConformance(t *testing.T) {
	conformance.Namespaces(t, func(t *testing.T) backends.Namespaces { b, _ := backend(t); return b })
}

// in runs a command in the pinned namespaces and gives what it prints.
func in(t *testing.T, n messages.Namespaces, command ...string) string {
	t.Helper()
	args := []string{"--net=" + n.Network, "--ipc=" + n.IPC, "--uts=" + n.UTS}
	out, err := exec.Command("nsenter", append(args, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestHostnameAndSysctlsAreSetInsideAndTheNodeKeepsItsOwn(t *testing.T) {
	b, _ := backend(t)
	sysctls := map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "80",
		"net/ipv4/conf/lo/forwarding":         "1",
		"kernel.shmmax":                       "123456",
		"kernel.msgmax":                       "4321",
		"kernel.sem":                          "251 32001 101 129",
		"kernel.shm_rmid_forced":              "1",
	}
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, "/proc/sys/kernel/shmmax") + read(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start")
	n, err := b.Pin(t.Context(), backends.NamespaceRequest{
		Pod: conformance.ID(t), Network: true, IPC: true, UTS: true, Hostname: "inside", Sysctls: sysctls,
	})
	if err != nil {
		t.Fatal(err)
	}
	for want, command := range map[string]string{
		"inside":               "hostname",
		"80":                   "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
		"1":                    "cat /proc/sys/net/ipv4/conf/lo/forwarding",
		"123456":               "cat /proc/sys/kernel/shmmax",
		"4321":                 "cat /proc/sys/kernel/msgmax",
		"251\t32001\t101\t129": "cat /proc/sys/kernel/sem",
	} {
		if got := in(t, n, strings.Fields(command)...); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if now, _ := os.Hostname(); now != node {
		t.Errorf("the node's hostname became %q", now)
	}
	if after := read(t, "/proc/sys/kernel/shmmax") + read(t, "/proc/sys/net/ipv4/ip_unprivileged_port_start"); after != before {
		t.Errorf("the node's sysctls became %q", after)
	}
}

func TestMessageQueueSysctlsBelongToTheIPCNamespace(t *testing.T) {
	b, _ := backend(t)
	n, err := b.Pin(t.Context(), backends.NamespaceRequest{
		Pod: conformance.ID(t), Network: true, IPC: true, UTS: true, Sysctls: map[string]string{"fs.mqueue.msg_max": "77"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := in(t, n, "cat", "/proc/sys/fs/mqueue/msg_max"); got != "77" {
		t.Errorf("fs.mqueue.msg_max is %s inside", got)
	}
	if read(t, "/proc/sys/fs/mqueue/msg_max") == "77" {
		t.Error("the node's own was changed")
	}
}

// own is the node's network namespace, read before any test can change a thread.
var own, _ = os.Readlink("/proc/self/ns/net")

func TestNoThreadOfTheDaemonStaysInAPodsNamespaces(t *testing.T) {
	b, _ := backend(t)
	var wait sync.WaitGroup
	for range 20 {
		pod := conformance.ID(t)
		wait.Go(func() {
			if _, err := b.Pin(context.Background(), backends.NamespaceRequest{Pod: pod, Network: true, UTS: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	// A thread ends a moment after its goroutine has answered.
	for deadline := 0; ; deadline++ {
		strays := 0
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, task := range tasks {
			if link, err := os.Readlink(task); err == nil && link != own {
				strays++
			}
		}
		if strays == 0 {
			return
		}
		if deadline > 100 {
			t.Fatalf("%d threads are still in a pod's network namespace", strays)
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil)
	}
}

func TestAPinThatWasCutOffIsMadeAnew(t *testing.T) {
	b, dir := backend(t)
	r := backends.NamespaceRequest{Pod: conformance.ID(t), Network: true, IPC: true, UTS: true, Hostname: "anew"}
	n, err := b.Pin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	// As if the daemon had died between two pins: a file with no mount, and none.
	for _, path := range []string{n.IPC, n.UTS} {
		if err := unix.Unmount(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(n.UTS); err != nil {
		t.Fatal(err)
	}
	n, err = b.Pin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := in(t, n, "hostname"); got != "anew" {
		t.Errorf("hostname %q", got)
	}
	if err := b.Unpin(t.Context(), r.Pod); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if strings.Contains(read(t, "/proc/self/mountinfo"), dir) {
		t.Error("a mount was left behind")
	}
}

func TestAHostileSysctlNameCannotLeaveItsNamespace(t *testing.T) {
	b, _ := backend(t)
	for _, name := range []string{
		"net/../kernel/hostname", "net.ipv4./../../vm/swappiness", "net..x", "", "net", ".net.x", "net/ipv4/",
		"net.ipv4.ip_forward\n", "kernel.sysrq", "kernel.domainname", "net.no.such.thing", "fs.mqueuex",
	} {
		pod := conformance.ID(t)
		_, err := b.Pin(t.Context(), backends.NamespaceRequest{
			Pod: pod, Network: true, IPC: true, UTS: true, Sysctls: map[string]string{name: "1"},
		})
		if err == nil || messages.KindOf(err) != messages.Invalid {
			t.Errorf("%q: %v, want kind Invalid", name, err)
		}
		if held, _ := b.Held(t.Context()); len(held) > 0 {
			t.Errorf("%q left %v", name, held)
		}
	}
}

func TestAValueTheKernelRefusesIsInvalid(t *testing.T) {
	b, _ := backend(t)
	_, err := b.Pin(t.Context(), backends.NamespaceRequest{
		Pod: conformance.ID(t), Network: true, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "banana"},
	})
	if messages.KindOf(err) != messages.Invalid || err == nil || !strings.Contains(err.Error(), "banana") {
		t.Errorf("got %v", err)
	}
}

func TestDefaultSysctlsAreSetWhereThePodHasTheNamespaceAndDoesNotSetThem(t *testing.T) {
	b, _ := backend(t, "net.ipv4.ip_unprivileged_port_start=81", "net/ipv4/ip_default_ttl=33", "kernel.msgmax = 1111", "net.ipv4.ping_group_range=1 0x")
	r := backends.NamespaceRequest{Pod: conformance.ID(t), Network: true, IPC: true, UTS: true, Sysctls: map[string]string{"net.ipv4.ip_default_ttl": "44"}}
	n, err := b.Pin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	got := in(t, n, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/sys/kernel/msgmax")
	if got != "81\n44\n1111" {
		t.Errorf("they are %q", got)
	}
	// One of a namespace that the pod shares with the node is left out.
	if _, err := b.Pin(t.Context(), backends.NamespaceRequest{Pod: conformance.ID(t), IPC: true, UTS: true}); err != nil {
		t.Error(err)
	}
	if read(t, "/proc/sys/net/ipv4/ip_default_ttl") == "33" {
		t.Error("the node's own was changed")
	}
	for _, bad := range []string{"vm.swappiness=1", "net.ipv4.ip_forward", "kernel.hostname=x"} {
		if _, err := namespaces.New(namespaces.Config{Dir: t.TempDir(), DefaultSysctls: []string{bad}}); err == nil || messages.KindOf(err) != messages.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

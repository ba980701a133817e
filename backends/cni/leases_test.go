package cni_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// A power cut leaves the name of host-local's lease and not its content: no DEL
// finds it again.
func TestAnAddressWhoseLeaseHasLostItsOwnerIsFreedAndNoOther(t *testing.T) {
	n := newNode(t)
	n.write("10-net.conflist", n.bridged("net"))
	b := n.backend()
	stays, torn := n.pod(), n.pod()
	kept, err := b.Attach(t.Context(), stays)
	ok(t, err)
	lost, err := b.Attach(t.Context(), torn)
	ok(t, err)
	for i, ip := range lost.IPs {
		content := make([]byte, 0, 8)
		if i > 0 {
			content = content[:8] // some file systems keep the length
		}
		ok(t, os.WriteFile(filepath.Join(n.store, "net", ip), content, 0o600))
	}
	ok(t, b.Detach(t.Context(), torn))
	for _, ip := range lost.IPs {
		if !slices.Contains(n.leases(), ip) {
			t.Fatalf("%s was freed by DEL: the test shows nothing", ip)
		}
	}

	lock, err := os.OpenFile(filepath.Join(n.store, "net", "lock"), os.O_RDWR, 0)
	ok(t, err)
	defer lock.Close()
	ok(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX)) // a plugin is at work
	if err := b.GC(t.Context(), func() []string { return []string{stays.Pod} }); messages.KindOf(err) != messages.Busy {
		t.Errorf("while a plugin is at work: %v", err)
	}
	for _, ip := range lost.IPs {
		if !slices.Contains(n.leases(), ip) {
			t.Errorf("%s was freed while a plugin was at work, whose it may be", ip)
		}
	}
	ok(t, lock.Close())
	ok(t, b.GC(t.Context(), func() []string { return []string{stays.Pod} }))
	for _, ip := range lost.IPs {
		if slices.Contains(n.leases(), ip) {
			t.Errorf("%s stays given away", ip)
		}
	}
	for _, ip := range kept.IPs {
		if !slices.Contains(n.leases(), ip) {
			t.Errorf("the other pod's %s was freed", ip)
		}
	}
	ok(t, b.Detach(t.Context(), stays))
}

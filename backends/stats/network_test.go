package stats

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/troupe-run/troupe/backends/thread"
	"github.com/troupe-run/troupe/messages"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pinned makes a network namespace with a pair of interfaces, and pins it.
func pinned(t testing.TB, link string) string {
	t.Helper()
	pin := filepath.Join(t.TempDir(), "net")
	ok(t, os.WriteFile(pin, nil, 0o600))
	var err error
	thread.ThrownAway(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if link != "" {
			if err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "peer0"}); err != nil {
				return
			}
		}
		err = unix.Mount("/proc/thread-self/ns/net", pin, "", unix.MS_BIND, "")
	})
	ok(t, err)
	t.Cleanup(func() { ok(t, unix.Unmount(pin, unix.MNT_DETACH)) })
	return pin
}

func netnsOf(t *testing.T) string {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	ok(t, err)
	return link
}

func TestEachPodShowsTheCountersOfItsOwnNamespace(t *testing.T) {
	m := meter(t)
	notANamespace := filepath.Join(t.TempDir(), "lost")
	ok(t, os.WriteFile(notANamespace, nil, 0o600))
	pods := []*messages.PodSnapshot{
		{ID: "host"},
		{ID: "a", Namespaces: messages.Namespaces{Network: pinned(t, "eth0")}},
		{ID: "gone", Namespaces: messages.Namespaces{Network: "/nonexistent"}},
		{ID: "lost", Namespaces: messages.Namespaces{Network: notANamespace}},
		{ID: "b", Namespaces: messages.Namespaces{Network: pinned(t, "net1")}},
	}
	home, before := netnsOf(t), openDescriptors(t)
	got := m.Networks(t.Context(), pods)
	if len(got) != 2 || len(got["a"].Interfaces) != 2 || got["a"].Interfaces[0].Name != "eth0" || len(got["b"].Interfaces) != 2 || got["a"].At.IsZero() {
		t.Errorf("got %+v", got)
	}
	if now := netnsOf(t); now != home {
		t.Errorf("a thread was left in %s", now)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

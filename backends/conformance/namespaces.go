package conformance

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Namespaces checks the promises of backends.Namespaces.
func Namespaces(t *testing.T, new func(t *testing.T) backends.Namespaces) {
	request := func(pod string) backends.NamespaceRequest {
		return backends.NamespaceRequest{Pod: pod, Network: true, IPC: true, UTS: true, Hostname: "conformance"}
	}
	t.Run("EveryNamespaceAskedForIsPinnedUnderThePodsName", func(t *testing.T) {
		n, pod := new(t), ID(t)
		got, err := n.Pin(context30s(t), request(pod))
		must(t, err)
		for _, path := range []string{got.Network, got.IPC, got.UTS} {
			if !strings.Contains(path, pod) {
				t.Errorf("path %q does not carry the pod's id", path)
			}
		}
		if got.PID != "" || got.User != "" {
			t.Errorf("namespaces nobody asked for: %+v", got)
		}
		must(t, n.Unpin(context30s(t), pod))
	})
	t.Run("TheNodesOwnNamespaceIsAnEmptyPath", func(t *testing.T) {
		n, pod := new(t), ID(t)
		got, err := n.Pin(context30s(t), backends.NamespaceRequest{Pod: pod, UTS: true})
		must(t, err)
		if got.Network != "" || got.IPC != "" || got.UTS == "" {
			t.Errorf("asked for UTS only, got %+v", got)
		}
		must(t, n.Unpin(context30s(t), pod))
		wantNothingHeld(t, n, pod)
	})
	t.Run("APodWithNoneOfItsOwnHoldsNothing", func(t *testing.T) {
		n, pod := new(t), ID(t)
		got, err := n.Pin(context30s(t), backends.NamespaceRequest{Pod: pod})
		must(t, err)
		if got != (messages.Namespaces{}) {
			t.Errorf("got %+v", got)
		}
		wantNothingHeld(t, n, pod)
	})
	t.Run("PinningAgainGivesTheSame", func(t *testing.T) {
		n, pod := new(t), ID(t)
		first, err := n.Pin(context30s(t), request(pod))
		must(t, err)
		second, err := n.Pin(context30s(t), request(pod))
		must(t, err)
		if first != second {
			t.Errorf("first %+v, then %+v", first, second)
		}
		must(t, n.Unpin(context30s(t), pod))
		wantNothingHeld(t, n, pod)
	})
	t.Run("WhatIsPinnedIsKnownUntilItIsUnpinned", func(t *testing.T) {
		n, pod := new(t), ID(t)
		pinned := func(what messages.Namespaces, want bool) {
			t.Helper()
			is, err := n.Pinned(context30s(t), pod, what)
			must(t, err)
			if is != want {
				t.Errorf("pinned: %v, want %v (%+v)", is, want, what)
			}
		}
		got, err := n.Pin(context30s(t), request(pod))
		must(t, err)
		pinned(got, true)
		pinned(messages.Namespaces{}, true)
		must(t, n.Unpin(context30s(t), pod))
		pinned(got, false)
		pinned(messages.Namespaces{UTS: got.UTS}, false)
		pinned(messages.Namespaces{}, true)
	})
	t.Run("UnpinWithoutPinAndTwiceIsASuccess", func(t *testing.T) {
		n, pod := new(t), ID(t)
		must(t, n.Unpin(context30s(t), pod))
		_, err := n.Pin(context30s(t), request(pod))
		must(t, err)
		must(t, n.Unpin(context30s(t), pod))
		must(t, n.Unpin(context30s(t), pod))
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		n, pod, other := new(t), ID(t), ID(t)
		for _, p := range []string{pod, other} {
			_, err := n.Pin(context30s(t), request(p))
			must(t, err)
			wantHeld(t, n, p)
		}
		dropAll(t, n, pod)
		wantHeld(t, n, other)
		dropAll(t, n, other)
	})
	t.Run("AUserNamespaceIsPinnedBesideWhatItOwnsAndGivenBackWithIt", func(t *testing.T) {
		n := new(t)
		ownUsers(t, n, request(ID(t)))
	})
	t.Run("ASysctlOfTheNodeIsRefusedAndLeavesNothing", func(t *testing.T) { refusedSysctls(t, new(t)) })
}

func ownUsers(t *testing.T, n backends.Namespaces, r backends.NamespaceRequest) {
	pod := r.Pod
	some := messages.IDRange{Host: 165536, Length: 65536}
	r.User = &messages.UserNamespace{UIDs: some, GIDs: some}
	first, err := n.Pin(context30s(t), r)
	must(t, err)
	second, err := n.Pin(context30s(t), r)
	must(t, err)
	if !strings.Contains(first.User, pod) || first.Network == "" || first != second {
		t.Errorf("first %+v, then %+v", first, second)
	}
	must(t, n.Unpin(context30s(t), pod))
	wantNothingHeld(t, n, pod)
	r.User.UIDs.Length = 0
	if _, err := n.Pin(context30s(t), r); err == nil || messages.KindOf(err) != messages.Invalid {
		t.Errorf("a mapping of nothing: %v, want an error of kind Invalid", err)
	}
	wantNothingHeld(t, n, pod)
}

func refusedSysctls(t *testing.T, n backends.Namespaces) {
	for _, r := range []backends.NamespaceRequest{
		{Network: true, IPC: true, UTS: true, Sysctls: map[string]string{"vm.swappiness": "1"}},
		{Network: true, IPC: true, UTS: true, Sysctls: map[string]string{"kernel.hostname": "x"}},
		{IPC: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}},
		{Network: true, Sysctls: map[string]string{"kernel.shmmax": "1"}},
	} {
		r.Pod = ID(t)
		_, err := n.Pin(context30s(t), r)
		if messages.KindOf(err) != messages.Invalid || err == nil {
			t.Errorf("sysctls %v: got %v, want an error of kind Invalid", r.Sysctls, err)
		}
		wantNothingHeld(t, n, r.Pod)
	}
}

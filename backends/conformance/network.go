package conformance

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// NetworkHarness is a network that is ready, and namespaces to attach to it.
type NetworkHarness struct {
	Network backends.Network
	// Pin makes a network namespace for a pod and gives its path; the harness
	// takes it away at the end of the test, or at Unpin.
	Pin   func(pod string) string
	Unpin func(pod string)
}

func (h NetworkHarness) request(pod string) backends.NetworkRequest {
	return backends.NetworkRequest{Pod: pod, Name: "pod-" + pod[:6], Namespace: "conformance", UID: "uid-" + pod[:6], NetNS: h.Pin(pod)}
}

// Network checks the promises of backends.Network.
func Network(t *testing.T, new func(t *testing.T) NetworkHarness) {
	t.Run("AnAttachedPodHasAddressesOfItsOwn", func(t *testing.T) {
		h := new(t)
		must(t, h.Network.Status(context30s(t)))
		seen := map[string]bool{}
		for range 3 {
			r := h.request(ID(t))
			for _, ip := range attach(t, h, r) {
				if _, err := netip.ParseAddr(ip); err != nil {
					t.Errorf("address %q: %v", ip, err)
				}
				if seen[ip] {
					t.Errorf("address %s was given twice", ip)
				}
				seen[ip] = true
			}
			defer func() { must(t, h.Network.Detach(context30s(t), r)) }()
		}
	})
	t.Run("AttachingAgainGivesTheSame", func(t *testing.T) {
		h := new(t)
		r := h.request(ID(t))
		first := attach(t, h, r)
		if second := attach(t, h, r); !slices.Equal(first, second) {
			t.Errorf("first %v, then %v", first, second)
		}
		must(t, h.Network.Detach(context30s(t), r))
		wantNothingHeld(t, h.Network, r.Pod)
	})
	t.Run("DetachWithoutAttachAndTwiceIsASuccess", func(t *testing.T) {
		h := new(t)
		r := h.request(ID(t))
		must(t, h.Network.Detach(context30s(t), r))
		attach(t, h, r)
		must(t, h.Network.Detach(context30s(t), r))
		must(t, h.Network.Detach(context30s(t), r))
	})
	t.Run("DetachWorksWhenTheNamespaceHasGone", func(t *testing.T) {
		h := new(t)
		r := h.request(ID(t))
		attach(t, h, r)
		h.Unpin(r.Pod)
		must(t, h.Network.Detach(context30s(t), r))
		wantNothingHeld(t, h.Network, r.Pod)
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		h := new(t)
		one, two := h.request(ID(t)), h.request(ID(t))
		for _, r := range []backends.NetworkRequest{one, two} {
			attach(t, h, r)
			wantHeld(t, h.Network, r.Pod)
		}
		dropAll(t, h.Network, one.Pod)
		wantHeld(t, h.Network, two.Pod)
		dropAll(t, h.Network, two.Pod)
	})
	t.Run("GCKeepsWhatIsValidAndFreesTheRest", func(t *testing.T) {
		h := new(t)
		r, other := h.request(ID(t)), h.request(ID(t))
		first := attach(t, h, r)
		attach(t, h, other)
		h.Unpin(other.Pod) // as after a restart of the node
		must(t, h.Network.GC(context30s(t), func() []string { return []string{r.Pod} }))
		if again := attach(t, h, r); !slices.Equal(first, again) {
			t.Errorf("had %v, after GC %v", first, again)
		}
		wantNothingHeld(t, h.Network, other.Pod)
		must(t, h.Network.Detach(context30s(t), other)) // its stop comes later
		must(t, h.Network.Detach(context30s(t), r))
	})
	t.Run("AMissingNamespaceIsAnErrorAndLeavesNothing", func(t *testing.T) {
		h := new(t)
		r := h.request(ID(t))
		h.Unpin(r.Pod)
		if _, err := h.Network.Attach(context30s(t), r); err == nil || messages.KindOf(err) != messages.Precondition {
			t.Errorf("got %v, want kind Precondition", err)
		}
		must(t, h.Network.Detach(context30s(t), r))
		wantNothingHeld(t, h.Network, r.Pod)
	})
}

func attach(t *testing.T, h NetworkHarness, r backends.NetworkRequest) []string {
	t.Helper()
	result, err := h.Network.Attach(context30s(t), r)
	must(t, err)
	if len(result.IPs) == 0 {
		t.Fatal("no address")
	}
	return result.IPs
}

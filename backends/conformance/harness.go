// Package conformance holds one suite of promises per backend interface. The
// fake node and the real backends run the same suites, so that what the
// simulations prove about the actors holds on a node. A suite uses nothing but
// the interface; what only the real kernel shows is in the backend's own tests.
package conformance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
)

// ID makes an id as the actors do: 64 hex characters.
func ID(t *testing.T) string {
	t.Helper()
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func context30s(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// heldOf is what a backend holds for one pod.
func heldOf(t *testing.T, h backends.Holder, pod string) []backends.Held {
	t.Helper()
	all, err := h.Held(context30s(t))
	must(t, err)
	var mine []backends.Held
	for _, held := range all {
		if held.Pod == "" || held.Kind == "" || held.Name == "" {
			t.Errorf("held without pod, kind or name: %+v", held)
		}
		if held.Pod == pod {
			mine = append(mine, held)
		}
	}
	return mine
}

func wantHeld(t *testing.T, h backends.Holder, pod string) {
	t.Helper()
	if len(heldOf(t, h, pod)) == 0 {
		t.Errorf("%T holds nothing for pod %.12s, want something", h, pod)
	}
}

func wantNothingHeld(t *testing.T, h backends.Holder, pod string) {
	t.Helper()
	if held := heldOf(t, h, pod); len(held) > 0 {
		t.Errorf("%T still holds %+v", h, held)
	}
}

// dropAll drops what is held for a pod, every item twice: the second time
// there is nothing to drop, which is a success.
func dropAll(t *testing.T, h backends.Holder, pod string) {
	t.Helper()
	for _, held := range heldOf(t, h, pod) {
		must(t, h.Drop(context30s(t), held))
		must(t, h.Drop(context30s(t), held))
	}
	wantNothingHeld(t, h, pod)
}

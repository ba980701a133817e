//go:build kubelet

package kubelet

import (
	"strings"
	"testing"
	"time"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func contains(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: %q is not in %q", what, want, got)
	}
}

// eventually waits for a condition that must come true soon.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited 90 s in vain: %s", what)
}

// eventuallySay waits until look has nothing to complain about, and fails with
// its last complaint.
func eventuallySay(t *testing.T, look func() string) {
	t.Helper()
	var said string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		if said = look(); said == "" {
			return
		}
	}
	t.Fatalf("waited 60 s: %s", said)
}

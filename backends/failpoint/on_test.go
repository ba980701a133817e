//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var _ = Declare("test", "point")

// TestMain is the process that dies when TROUPE_FAILPOINT is set: it comes by
// the point three times and says so.
func TestMain(m *testing.M) {
	if os.Getenv("FAILPOINT_CHILD") == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		Hit("test", "point")
		os.Stdout.WriteString("passed\n")
		if at := os.Getenv("FAILPOINT_DISARM"); at != "" {
			_ = os.Remove(at)
		}
	}
}

func child(t *testing.T, env ...string) (passed int, state *os.ProcessState, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "FAILPOINT_CHILD=1")...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.Count(out.String(), "passed"), cmd.ProcessState, errs.String()
}

func TestAPointKillsAtTheHitItWasToldTo(t *testing.T) {
	for spec, want := range map[string]int{"test/point=kill": 0, "test/point=kill,3": 2, "other=kill": 3, "": 3} {
		passed, state, stderr := child(t, "TROUPE_FAILPOINT="+spec)
		killed := state.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if passed != want || killed != (want < 3) || killed != strings.Contains(stderr, "failpoint test/point: kill") {
			t.Errorf("%q: passed %d times, %v, said %q", spec, passed, state, stderr)
		}
	}
}

func TestAPointArmedByFileFiresOnceAndLeavesItsMark(t *testing.T) {
	at := filepath.Join(t.TempDir(), "arm")
	if err := os.WriteFile(at, []byte("test/point=kill,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if passed, state, _ := child(t, "TROUPE_FAILPOINT_FILE="+at); passed != 1 || state.Success() {
		t.Fatalf("passed %d times, %v", passed, state)
	}
	if _, err := os.Stat(at + ".fired"); err != nil {
		t.Fatal(err)
	}
	if passed, state, _ := child(t, "TROUPE_FAILPOINT_FILE="+at); passed != 3 || !state.Success() {
		t.Fatalf("fired again: passed %d times, %v", passed, state)
	}
}

func TestAPointWhoseFileIsTakenAwayIsDisarmed(t *testing.T) {
	at := filepath.Join(t.TempDir(), "arm")
	if err := os.WriteFile(at, []byte("test/point=kill,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if passed, state, _ := child(t, "TROUPE_FAILPOINT_FILE="+at, "FAILPOINT_DISARM="+at); passed != 3 || !state.Success() {
		t.Fatalf("passed %d times, %v", passed, state)
	}
}

func TestATraceNamesEachHit(t *testing.T) {
	at := filepath.Join(t.TempDir(), "trace")
	child(t, "TROUPE_FAILPOINT_TRACE="+at)
	if got, err := os.ReadFile(at); string(got) != strings.Repeat("test/point\n", 3) {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAHangEndsWhenItsMarkIsTaken(t *testing.T) {
	at := filepath.Join(t.TempDir(), "arm")
	if err := os.WriteFile(at, []byte("test/point=hang"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan int, 1)
	go func() { passed, _, _ := child(t, "TROUPE_FAILPOINT_FILE="+at); ended <- passed }()
	for range 500 {
		if _, err := os.Stat(at + ".fired"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-ended:
		t.Fatal("it did not hang")
	case <-time.After(200 * time.Millisecond):
	}
	if err := os.Remove(at + ".fired"); err != nil {
		t.Fatal(err)
	}
	if passed := <-ended; passed != 3 {
		t.Fatalf("passed %d times", passed)
	}
}

func TestAnUndeclaredNameIsAMistake(t *testing.T) {
	if !slices.Contains(Names(), "test/point") {
		t.Fatal(Names())
	}
	defer func() {
		if recover() == nil {
			t.Fatal("nobody noticed")
		}
	}()
	Hit("nowhere")
}

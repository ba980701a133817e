package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/backends/journal"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func open(t *testing.T, root string) *journal.Backend {
	b := journal.New(journal.Config{Root: root})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestConformance(t *testing.T) {
	conformance.Journal(t, func(t *testing.T) backends.Journal { return open(t, t.TempDir()) })
}

func recordPath(root string, k backends.Key) string {
	if k.Container == "" {
		return filepath.Join(root, "pods", k.Pod, "record")
	}
	return filepath.Join(root, "pods", k.Pod, "containers", k.Container, "record")
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedRecordIsPutAsideAndNeverStopsTheOthers(t *testing.T) {
	harm := map[string]func(whole []byte) []byte{
		"torn":                 func(w []byte) []byte { return w[:len(w)-3] },
		"torn in the header":   func(w []byte) []byte { return w[:20] },
		"empty":                func([]byte) []byte { return nil },
		"zeroes":               func(w []byte) []byte { return make([]byte, len(w)) },
		"one bit flipped":      func(w []byte) []byte { w[len(w)-1] ^= 1; return w },
		"not ours":             func([]byte) []byte { return []byte("{}\nhello") },
		"longer":               func(w []byte) []byte { return append(w, 'x') },
		"newer":                func(w []byte) []byte { return bytes.Replace(w, []byte(`"version":1`), []byte(`"version":9`), 1) },
		"of somebody else":     func(w []byte) []byte { return bytes.Replace(w, []byte(`"pod":"`), []byte(`"pod":"f`), 1) },
		"a directory's record": nil,
	}
	for name, change := range harm {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			root := t.TempDir()
			j := open(t, root)
			good, bad := backends.Key{Pod: conformance.ID(t)}, backends.Key{Pod: conformance.ID(t), Container: conformance.ID(t)}
			ok(t, j.Save(t.Context(), good, []byte("good")))
			ok(t, j.Save(t.Context(), bad, []byte("this one is harmed")))
			path := recordPath(root, bad)
			if change == nil {
				ok(t, os.Remove(path))
				ok(t, os.Mkdir(path, 0o700))
			} else {
				whole, err := os.ReadFile(path)
				ok(t, err)
				ok(t, os.WriteFile(path, change(whole), 0o600))
			}
			records, damaged, err := open(t, root).Load(t.Context())
			ok(t, err)
			if len(records) != 1 || records[0].Key != good {
				t.Errorf("records: %v", records)
			}
			if len(damaged) != 1 || !strings.Contains(damaged[0], bad.Container) {
				t.Errorf("damaged: %v", damaged)
			}
			if kept, _ := os.ReadDir(filepath.Join(root, "quarantine")); len(kept) != 1 {
				t.Errorf("%d files in quarantine, want 1", len(kept))
			}
			if _, damaged, _ = j.Load(t.Context()); len(damaged) > 0 {
				t.Errorf("told again: %v", damaged)
			}
			ok(t, j.Remove(t.Context(), bad))
		})
	}
}

func TestAFullDiskIsNoSpaceAndKeepsTheOldRecord(t *testing.T) {
	root := t.TempDir()
	ok(t, unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { ok(t, unix.Unmount(root, unix.MNT_DETACH)) })
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t)}
	ok(t, j.Save(t.Context(), k, []byte("old")))
	err := j.Save(t.Context(), k, make([]byte, 1<<20))
	if err == nil || messages.KindOf(err) != messages.NoSpace {
		t.Fatalf("got %v, want kind NoSpace", err)
	}
	records, damaged, err := j.Load(t.Context())
	ok(t, err)
	if len(damaged) > 0 || len(records) != 1 || string(records[0].Data) != "old" {
		t.Errorf("records %v, damaged %v", records, damaged)
	}
	ok(t, j.Save(t.Context(), k, []byte("new")))
}

func TestAWriteCutOffByADeathIsNotSeenAndGoesAway(t *testing.T) {
	root := t.TempDir()
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t)}
	ok(t, j.Save(t.Context(), k, []byte("whole")))
	half := filepath.Join(root, "pods", k.Pod, ".record-123")
	ok(t, os.WriteFile(half, []byte("{\"vers"), 0o600))
	records, damaged, err := j.Load(t.Context())
	ok(t, err)
	if len(records) != 1 || len(damaged) != 0 {
		t.Errorf("records %v, damaged %v", records, damaged)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("the half-written file is still there")
	}
}

func TestOtherBackendsFilesOutliveTheRecordAndEmptyDirectoriesDoNot(t *testing.T) {
	root := t.TempDir()
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t), Container: conformance.ID(t)}
	ok(t, j.Save(t.Context(), k, []byte("x")))
	upper := filepath.Join(filepath.Dir(recordPath(root, k)), "upper")
	ok(t, os.Mkdir(upper, 0o700))
	ok(t, j.Remove(t.Context(), k))
	if _, err := os.Stat(upper); err != nil {
		t.Errorf("another backend's directory went with the record: %v", err)
	}
	ok(t, os.Remove(upper))
	ok(t, j.Remove(t.Context(), k))
	ok(t, j.Remove(t.Context(), backends.Key{Pod: k.Pod}))
	if left, _ := os.ReadDir(filepath.Join(root, "pods")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSavesAndRemovesOfNeighboursDoNotDisturbEachOther(t *testing.T) {
	j, pod := open(t, t.TempDir()), conformance.ID(t)
	var wait sync.WaitGroup
	for i := range 8 {
		k := backends.Key{Pod: pod, Container: conformance.ID(t)}
		wait.Go(func() {
			for n := range 50 {
				if err := j.Save(context.Background(), k, fmt.Append(nil, i, n)); err != nil {
					t.Error(err)
				}
				if err := j.Remove(context.Background(), k); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if held, err := j.Held(t.Context()); err != nil || len(held) > 0 {
		t.Errorf("held %v, %v", held, err)
	}
}

func TestCloseWaitsForTheDiskAndMayBeCalledTwice(t *testing.T) {
	j := journal.New(journal.Config{Root: t.TempDir()})
	for range 100 {
		ok(t, j.Save(t.Context(), backends.Key{Pod: conformance.ID(t)}, []byte("x")))
	}
	ok(t, j.Close())
	ok(t, j.Close())
}

func TestAHostileIdIsRefused(t *testing.T) {
	j := open(t, t.TempDir())
	for _, k := range []backends.Key{{}, {Pod: ".."}, {Pod: "a/b"}, {Pod: "a", Container: "../x"}} {
		if err := j.Save(t.Context(), k, nil); messages.KindOf(err) != messages.Invalid || err == nil {
			t.Errorf("save %+v: %v", k, err)
		}
		if err := j.Remove(t.Context(), k); messages.KindOf(err) != messages.Invalid || err == nil {
			t.Errorf("remove %+v: %v", k, err)
		}
	}
}

// Crash points journal/save/written and journal/remove/removed.
func TestADaemonThatDiedWithinAWriteOrARemoveLeavesNoDirectory(t *testing.T) {
	root := t.TempDir()
	stays, torn, bare := backends.Key{Pod: "stays"}, filepath.Join("stays", "containers", "torn"), filepath.Join("gone", "containers", "bare")
	ok(t, open(t, root).Save(t.Context(), stays, []byte("here")))
	for _, dir := range []string{torn, bare, "owned/containers/c"} {
		ok(t, os.MkdirAll(filepath.Join(root, "pods", dir), 0o700))
	}
	ok(t, os.WriteFile(filepath.Join(root, "pods", torn, ".record-123"), []byte("half a rec"), 0o600))
	ok(t, os.WriteFile(filepath.Join(root, "pods", "owned/containers/c/of-another"), nil, 0o600))
	records, damaged, err := open(t, root).Load(t.Context())
	ok(t, err)
	if len(records) != 1 || records[0].Key != stays || len(damaged) > 0 {
		t.Errorf("loaded %v, damaged %v", records, damaged)
	}
	for path, want := range map[string]bool{recordPath("", stays): true, "pods/owned/containers/c/of-another": true, "pods/gone": false, "pods/stays/containers": false} {
		if _, err := os.Lstat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err == nil)
		}
	}
}

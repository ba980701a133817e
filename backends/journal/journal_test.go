package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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
		"torn":               func(w []byte) []byte { return w[:len(w)-3] },
		"torn in the header": func(w []byte) []byte { return w[:20] },
		"empty":              func([]byte) []byte { return nil },
		"zeroes":             func(w []byte) []byte { return make([]byte, len(w)) },
		"one bit flipped":    func(w []byte) []byte { w[len(w)-1] ^= 1; return w },
		"not ours":           func([]byte) []byte { return []byte("{}\nhello") },
		"longer":             func(w []byte) []byte { return append(w, 'x') },
		"newer":              func(w []byte) []byte { return bytes.Replace(w, []byte(`"version":1`), []byte(`"version":9`), 1) },
		"of somebody else":   func(w []byte) []byte { return bytes.Replace(w, []byte(`"pod":"`), []byte(`"pod":"f`), 1) },
	}
	// What is no file of ours at all: replace puts it in the record's place.
	replaced := map[string]func(path string) error{
		"a directory":                 func(path string) error { return os.Mkdir(path, 0o700) },
		"a directory with files":      func(path string) error { return os.MkdirAll(filepath.Join(path, "a", "b"), 0o700) },
		"a link to a whole record":    func(path string) error { return os.Symlink(path+".moved", path) },
		"a link to nothing":           func(path string) error { return os.Symlink("/nonexistent", path) },
		"a link to an endless device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a pipe nobody writes to":     func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device":                    func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"a socket":                    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
		"100 MB big":                  func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 100<<20), 0o600) },
		"a terabyte of holes": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40))
		},
	}
	for name := range replaced {
		harm[name] = nil
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
				ok(t, os.Rename(path, path+".moved"))
				ok(t, replaced[name](path))
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
			// Told again as long as the container has something without a record.
			left, _ := os.ReadDir(filepath.Dir(path))
			if _, damaged, _ = j.Load(t.Context()); len(damaged) > 0 != (len(left) > 0) {
				t.Errorf("%v are there, and the next is told: %v", left, damaged)
			}
		})
	}
}

// Who goes back to an older Troupe and then forward again has lost nothing that
// was not removed meanwhile.
func TestARecordOfANewerTroupeComesBackWithIt(t *testing.T) {
	root := t.TempDir()
	k := backends.Key{Pod: conformance.ID(t), Container: conformance.ID(t)}
	ok(t, open(t, root).Save(t.Context(), k, []byte("of the newer one")))
	path := recordPath(root, k)
	newer, err := os.ReadFile(path)
	ok(t, err)
	// The newer daemon's record, as this one sees it.
	ok(t, os.WriteFile(path, bytes.Replace(newer, []byte(`"version":1`), []byte(`"version":2`), 1), 0o600))
	older := open(t, root)
	_, damaged, err := older.Load(t.Context())
	ok(t, err)
	if len(damaged) != 1 || !strings.Contains(damaged[0], "newer Troupe") {
		t.Fatalf("damaged: %v", damaged)
	}
	held, err := older.Held(t.Context())
	ok(t, err)
	for _, h := range held { // the sweeper of the older one takes what has no record
		ok(t, older.Drop(t.Context(), h))
	}
	kept, err := os.ReadDir(filepath.Join(root, "quarantine"))
	ok(t, err)
	if len(kept) != 1 {
		t.Fatalf("in quarantine: %v", kept)
	}
	// This daemon is the newer one from here on: what it reads, it has written.
	aside := filepath.Join(root, "quarantine", kept[0].Name())
	ok(t, os.WriteFile(aside, newer, 0o600))
	records, damaged, err := open(t, root).Load(t.Context())
	ok(t, err)
	if len(damaged) > 0 || len(records) != 1 || records[0].Key != k || string(records[0].Data) != "of the newer one" {
		t.Errorf("records %v, damaged %v", records, damaged)
	}
}

func TestARecordThatWasReplacedSinceStaysInQuarantine(t *testing.T) {
	root := t.TempDir()
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t)}
	ok(t, j.Save(t.Context(), k, []byte("old")))
	ok(t, os.Mkdir(filepath.Join(root, "quarantine"), 0o700))
	aside := filepath.Join(root, "quarantine", k.Pod+"-123")
	ok(t, os.Rename(recordPath(root, k), aside))
	ok(t, j.Save(t.Context(), k, []byte("new")))
	records, _, err := j.Load(t.Context())
	ok(t, err)
	if len(records) != 1 || string(records[0].Data) != "new" {
		t.Errorf("records: %v", records)
	}
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
}

func TestQuarantineIsForPeopleAndNotForEver(t *testing.T) {
	root := t.TempDir()
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t)}
	old, young := fmt.Sprintf("%s-%d", k.Pod, time.Now().Add(-31*24*time.Hour).UnixNano()), fmt.Sprintf("%s-%d", k.Pod, time.Now().UnixNano())
	for _, name := range []string{old, young, "notes-of-the-operator", "2024-01-01"} {
		ok(t, os.MkdirAll(filepath.Join(root, "quarantine", name), 0o700))
	}
	held, err := j.Held(t.Context())
	ok(t, err)
	if len(held) != 1 || held[0].Pod != k.Pod || filepath.Base(held[0].Name) != old {
		t.Fatalf("held: %v", held)
	}
	ok(t, j.Drop(t.Context(), held[0]))
	left, err := os.ReadDir(filepath.Join(root, "quarantine"))
	ok(t, err)
	if len(left) != 3 {
		t.Errorf("left: %v", left)
	}
}

func TestADirectoryWithoutARecordIsHeldAndGoesUnlessSomethingIsMountedInIt(t *testing.T) {
	root := t.TempDir()
	j, pod := open(t, root), conformance.ID(t)
	dir := filepath.Join(root, "pods", pod)
	at := filepath.Join(dir, "containers", "what", "ever")
	ok(t, os.MkdirAll(at, 0o700))
	strangers := filepath.Join(root, "pods", "backup-of-the-operator")
	ok(t, os.MkdirAll(filepath.Join(strangers, "files"), 0o700))
	held, err := j.Held(t.Context())
	ok(t, err)
	if len(held) != 1 || held[0].Pod != pod || held[0].Kind != "directory" {
		t.Fatalf("held: %v", held)
	}
	ok(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	ok(t, os.WriteFile(filepath.Join(at, "precious"), nil, 0o600))
	if err := j.Drop(t.Context(), held[0]); err == nil || !strings.Contains(err.Error(), at) {
		t.Errorf("dropped with a mount in it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(at, "precious")); err != nil {
		t.Error(err)
	}
	ok(t, unix.Unmount(at, 0))
	ok(t, j.Drop(t.Context(), held[0]))
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is still there")
	}
	if _, err := os.Stat(strangers); err != nil {
		t.Error(err)
	}
}

func TestAShortageIsNoFaultOfTheRecords(t *testing.T) {
	root := t.TempDir()
	j, k := open(t, root), backends.Key{Pod: conformance.ID(t), Container: conformance.ID(t)}
	ok(t, j.Save(t.Context(), k, []byte("whole")))
	var before unix.Rlimit
	ok(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	var load error
	for limit := range uint64(64) { // whichever open it is that fails
		none := unix.Rlimit{Cur: limit, Max: before.Max}
		ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
		records, _, err := j.Load(t.Context())
		ok(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
		if err == nil && len(records) != 1 {
			t.Errorf("with %d descriptors %d records and no error", limit, len(records))
		}
		load = errors.Join(load, err)
	}
	if !errors.Is(load, unix.EMFILE) {
		t.Fatalf("no shortage was met: %v", load)
	}
	records, damaged, err := j.Load(t.Context())
	ok(t, err)
	if len(records) != 1 || len(damaged) > 0 {
		t.Errorf("records %v, damaged %v", records, damaged)
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
	stays, gone := backends.Key{Pod: conformance.ID(t)}, conformance.ID(t)
	torn, bare := filepath.Join(stays.Pod, "containers", conformance.ID(t)), filepath.Join(gone, "containers", conformance.ID(t))
	owned := filepath.Join(conformance.ID(t), "containers", conformance.ID(t))
	ok(t, open(t, root).Save(t.Context(), stays, []byte("here")))
	for _, dir := range []string{torn, bare, owned} {
		ok(t, os.MkdirAll(filepath.Join(root, "pods", dir), 0o700))
	}
	ok(t, os.WriteFile(filepath.Join(root, "pods", torn, ".record-123"), []byte("half a rec"), 0o600))
	ok(t, os.WriteFile(filepath.Join(root, "pods", owned, "of-another"), nil, 0o600))
	records, damaged, err := open(t, root).Load(t.Context())
	ok(t, err)
	if len(records) != 1 || records[0].Key != stays || len(damaged) != 1 || !strings.Contains(damaged[0], owned) {
		t.Errorf("loaded %v, damaged %v", records, damaged)
	}
	for path, want := range map[string]bool{recordPath("", stays): true, "pods/" + owned + "/of-another": true, "pods/" + gone: false, "pods/" + stays.Pod + "/containers": false} {
		if _, err := os.Lstat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err == nil)
		}
	}
}

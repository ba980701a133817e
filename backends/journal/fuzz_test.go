package journal

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
)

// FuzzRecord puts strangers' bytes in place of a record, between two good ones.
// Load gives the good ones, and of the other its body or a word of what is
// wrong; a second Load finds nothing wrong, because what was is put aside, with
// all of its bytes.
func FuzzRecord(f *testing.F) {
	pod, other := strings.Repeat("a", 64), strings.Repeat("b", 64)
	key := backends.Key{Pod: pod, Container: strings.Repeat("c", 64)}
	whole, err := encode(key, []byte(`{"version":1}`))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{
		whole, nil, []byte("\n"), []byte("{}\n"), whole[:len(whole)-1], append(whole[:0:0], append(whole, 'x')...), []byte(`{"version":99}` + "\n{}"), []byte(strings.Repeat("x", 1<<16)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		root := t.TempDir()
		b := New(Config{Root: root, Log: slog.New(slog.DiscardHandler)})
		defer b.Close()
		for _, k := range []backends.Key{{Pod: pod}, key, {Pod: other}} {
			if err := b.Save(t.Context(), k, []byte("good")); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(root, "pods", pod, "containers", key.Container, recordName)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		records, damaged, err := b.Load(t.Context())
		if err != nil || len(records)+len(damaged) != 3 || len(damaged) > 1 {
			t.Fatalf("%d records, damaged %v, %v", len(records), damaged, err)
		}
		for _, r := range records {
			if string(r.Data) != "good" && r.Key != key {
				t.Errorf("%v holds %q", r.Key, r.Data)
			}
		}
		again, still, err := b.Load(t.Context())
		if err != nil || len(still) > 0 || len(again) != len(records) {
			t.Errorf("a second time: %d records, damaged %v, %v", len(again), still, err)
		}
		if len(damaged) == 1 {
			kept, err := filepath.Glob(filepath.Join(root, "quarantine", "*"))
			if err != nil || len(kept) != 1 {
				t.Fatalf("put aside: %v, %v", kept, err)
			}
			if data, err := os.ReadFile(kept[0]); err != nil || string(data) != string(content) {
				t.Errorf("put aside are %d of %d bytes, %v", len(data), len(content), err)
			}
		}
	})
}

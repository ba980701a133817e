package images

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzStaged has a daemon find a staged layer whose record a stranger wrote,
// beside a good one. The good one is there; of the other there is either the
// layer its directory was made for, or nothing at all.
func FuzzStaged(f *testing.F) {
	one, other := digest.FromString("one"), digest.FromString("other")
	record := func(d digest.Digest) []byte {
		data, err := json.Marshal(&stagedLayer{Digest: d, BlobSize: 7, Boot: bootID()})
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	for _, seed := range [][]byte{record(one), record(other), record("sha256:x"), record(""), nil, []byte("null"), []byte("{}"), []byte(`{"Size":-1,"BigData":{"":null}}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &Store{cfg: Config{GraphRoot: t.TempDir()}, staged: map[string]*stagedLayer{}, log: slog.New(slog.DiscardHandler)}
		for name, data := range map[string][]byte{stagedName(string(one)) + "1": text, stagedName(string(other)) + "1": record(other)} {
			dir := filepath.Join(s.stagedDir(), name)
			if err := os.MkdirAll(filepath.Join(dir, stagedFiles), 0o700); err != nil {
				t.Fatal(err)
			}
			for file, content := range map[string][]byte{stagedSplit: nil, stagedRecord: data} {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.adopt(); err != nil {
			t.Fatal(err)
		}
		s.behind.Wait()
		good := s.staged[string(other)]
		if good == nil || !strings.HasPrefix(filepath.Base(good.dir), stagedName(string(other))) {
			t.Errorf("the good layer is not there, or is another: %+v", good)
		}
		delete(s.staged, string(other))
		found := s.staged[string(one)]
		delete(s.staged, string(one))
		if len(s.staged) > 0 {
			t.Errorf("a layer came of nothing: %v", s.staged)
		}
		_, err := os.Lstat(filepath.Join(s.stagedDir(), stagedName(string(one))+"1"))
		if (err == nil) != (found != nil) {
			t.Errorf("taken over: %v; its directory: %v", found != nil, err)
		}
	})
}

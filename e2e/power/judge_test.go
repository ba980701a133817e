package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/reexec"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// aStore has one layer with a file, an empty file, a link and a directory.
func aStore(t *testing.T) (root, run, files string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to open a store")
	}
	root, run = t.TempDir(), t.TempDir()
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: root, RunRoot: run, GraphDriverName: "overlay", GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Free()
	var archived bytes.Buffer
	w := tar.NewWriter(&archived)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o640, Size: 5},
		{Typeflag: tar.TypeReg, Name: "d/empty", Mode: 0o644},
		{Typeflag: tar.TypeSymlink, Name: "d/link", Linkname: "file", Mode: 0o777},
	} {
		h.ModTime = time.Unix(1767225600, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("hello")[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size, d := int64(archived.Len()), digest.FromBytes(archived.Bytes())
	options := &storage.LayerOptions{OriginalDigest: d, OriginalSize: &size, UncompressedDigest: d}
	l, _, err := store.PutLayer(d.Encoded(), "", nil, "", false, options, &archived)
	if err != nil {
		t.Fatal(err)
	}
	return root, run, filepath.Join(root, "overlay", l.ID, "diff", "d")
}

func TestTheJudgeSeesEveryKindOfDamage(t *testing.T) {
	write := func(name, text string) func(string) error {
		return func(d string) error { return os.WriteFile(filepath.Join(d, name), []byte(text), 0o644) }
	}
	for name, c := range map[string]struct {
		damage func(dir string) error
		sound  bool
	}{
		"none":                  {func(string) error { return nil }, true},
		"a changed byte":        {write("file", "hellO"), false},
		"a truncated file":      {func(d string) error { return os.Truncate(filepath.Join(d, "file"), 0) }, false},
		"a missing file":        {func(d string) error { return os.Remove(filepath.Join(d, "file")) }, false},
		"a missing empty file":  {func(d string) error { return os.Remove(filepath.Join(d, "empty")) }, false},
		"a missing link":        {func(d string) error { return os.Remove(filepath.Join(d, "link")) }, false},
		"another mode":          {func(d string) error { return os.Chmod(filepath.Join(d, "file"), 0o600) }, false},
		"another owner":         {func(d string) error { return os.Chown(filepath.Join(d, "file"), 1, 1) }, false},
		"another time":          {func(d string) error { return os.Chtimes(filepath.Join(d, "empty"), time.Now(), time.Now()) }, false},
		"a file that is not it": {write("more", ""), false},
		"no directory":          {os.RemoveAll, false},
	} {
		t.Run(name, func(t *testing.T) {
			root, run, dir := aStore(t)
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			f, err := judge(root, run)
			if err != nil {
				t.Fatal(err)
			}
			if (len(f.Corrupt) == 0) != c.sound {
				t.Errorf("found %v", f.Corrupt)
			}
			if len(f.Left) != 1 { // the layer is of no image
				t.Errorf("left over: %v", f.Left)
			}
		})
	}
}

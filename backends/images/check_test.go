package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// rich is a layer with everything a layer can have.
func rich(t *testing.T) packed {
	t.Helper()
	return zipped(t, tarred(t, []entry{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/su", Mode: 0o4755, Uid: 3, Gid: 4}, body: "some program"},
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/also", Linkname: "bin/su", Mode: 0o4755, Uid: 3, Gid: 4}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "su"}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "empty", Mode: 0o600}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "attr", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.trusted.what": "this"}}, body: "x"},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev", Mode: 0o600, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "gone/.wh.it"}},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "hides/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "hides/.wh..wh..opq"}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "way", Linkname: "/bin"}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "way/there", Mode: 0o644}, body: "by a link"},
	}...))
}

// damages are the ways to spoil it, and the words by which each is reported.
var damages = map[string]struct {
	spoil func(diff, split string) error
	says  string
}{
	"a flipped bit":                {func(d, _ string) error { return os.WriteFile(d+"/bin/su", []byte("sOme program"), 0o4755) }, "bin/su"},
	"a truncated file":             {func(d, _ string) error { return os.Truncate(d+"/attr", 0) }, "attr"},
	"a file with more at its end":  {func(d, _ string) error { return os.Truncate(d+"/empty", 5) }, "5 bytes"},
	"a missing file":               {func(d, _ string) error { return os.Remove(d + "/empty") }, "empty"},
	"a FIFO in a file's place":     {func(d, _ string) error { return errors.Join(os.Remove(d+"/attr"), unix.Mkfifo(d+"/attr", 0o644)) }, "attr"},
	"another mode":                 {func(d, _ string) error { return os.Chmod(d+"/empty", 0o666) }, "0666"},
	"another owner":                {func(d, _ string) error { return os.Chown(d+"/empty", 5, 0) }, "5:0"},
	"an attribute that is missing": {func(d, _ string) error { return unix.Removexattr(d+"/attr", "trusted.what") }, "trusted.what"},
	"another link":                 {func(d, _ string) error { return errors.Join(os.Remove(d+"/bin/link"), os.Symlink("sh", d+"/bin/link")) }, "bin/link"},
	"a hard link that is a copy": {func(d, _ string) error {
		return errors.Join(os.Remove(d+"/bin/also"), os.WriteFile(d+"/bin/also", []byte("some program"), 0o755))
	}, "bin/also"},
	"another device": {func(d, _ string) error {
		return errors.Join(os.Remove(d+"/dev"), unix.Mknod(d+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	}, "dev"},
	"a deleted file that is back":     {func(d, _ string) error { return os.Remove(d + "/gone/it") }, "gone/.wh.it"},
	"a hidden directory that is back": {func(d, _ string) error { return unix.Removexattr(d+"/hides", "trusted.overlay.opaque") }, "hides"},
	"a file nobody has packed":        {func(d, _ string) error { return os.WriteFile(d+"/bin/extra", nil, 0o755) }, "bin/extra"},
	"a missing directory":             {func(d, _ string) error { return os.RemoveAll(d) }, "its directory"},
	"no place in the store":           {func(d, _ string) error { return os.RemoveAll(filepath.Dir(d)) }, "its directory"},
	"no tar-split":                    {func(_, s string) error { return os.Remove(s) }, "tar-split"},
	"a truncated tar-split":           {func(_, s string) error { return os.Truncate(s, 100) }, "tar-split"},
	"an empty tar-split":              {func(_, s string) error { return os.Truncate(s, 0) }, "tar-split"},
}

func TestDamageOfEachKindIsFoundAndTheLayerAloneIsReplaced(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	base, top := rich(t), layerOf(t, "top", "gzip")
	f := newFront(t, reg, digest.FromBytes(top.blob).Encoded())
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "bottom", "zstd"), base, top}})
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{layerOf(t, "b", "gzip")}})
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s := open(t, reg, nil)
			image := pull(t, s, ask(f.addr+"/a:v"))
			other := pull(t, s, ask(reg.addr+"/b:v"))
			wantSound(t, s)
			record, err := s.store.Image(image.ID)
			ok(t, err)
			above, err := s.store.Layer(record.TopLayer)
			ok(t, err)
			id := above.Parent
			place := placeIn(s.cfg.GraphRoot, id)
			ok(t, damage.spoil(place.diff, place.split))

			found, err := s.Check(context.Background(), nil)
			ok(t, err)
			if len(found) != 1 || found[0].Layer != id || !found[0].Quarantined || !strings.Contains(found[0].What, damage.says) {
				t.Fatalf("found %+v, want layer %s and %q", found, id, damage.says)
			}
			if names := found[0].Names(); len(names) != 1 || names[0] != f.addr+"/a:v" || !strings.Contains(found[0].Images[0].Ref, "@sha256:") {
				t.Errorf("its images are %+v", found[0].Images)
			}
			wantListed(t, s, other.ID)

			f.answer(http.NotFound) // from now on the upper layer cannot be fetched
			pull(t, s, ask(f.addr+"/a:v"))
			f.handler.Store(nil)
			wantSound(t, s)
			wantListed(t, s, image.ID, other.ID)
			if now, err := s.store.Layer(above.ID); err != nil || !now.Created.Equal(above.Created) {
				t.Errorf("the layer above was made anew: %v, %v", now, err)
			}
		})
	}
}

func wantSound(t *testing.T, s *Store) {
	t.Helper()
	var done, total int
	found, err := s.Check(context.Background(), func(d, n int) { done, total = d, n })
	if err != nil || len(found) > 0 {
		t.Fatalf("found %+v, %v", found, err)
	}
	if layers, _ := s.store.Layers(); done != len(layers) || total != len(layers) {
		t.Errorf("progress ended at %d of %d, there are %d layers", done, total, len(layers))
	}
}

func wantListed(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	all, err := s.List(context.Background())
	ok(t, err)
	listed := map[string]bool{}
	for _, image := range all {
		listed[image.ID] = true
	}
	for _, id := range ids {
		if !listed[id] {
			t.Errorf("image %s is not listed", id)
		}
	}
	if len(all) != len(ids) {
		t.Errorf("%d images are listed, want %d", len(all), len(ids))
	}
}

func TestOtherContentIsNotPutIntoALayersPlace(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	record, err := s.store.Image(image.ID)
	ok(t, err)
	ok(t, os.RemoveAll(placeIn(s.cfg.GraphRoot, record.TopLayer).diff))
	other := layerOf(t, "other", "")
	l := backends.Layer{Digest: other.diffID.String(), DiffID: other.diffID.String(), Size: int64(len(other.blob))}
	st, err := s.unpackStream(l, bytes.NewReader(other.blob), &meter{})
	ok(t, err)
	defer os.RemoveAll(st.dir)
	if err := s.replaceLayer(record.TopLayer, st); err == nil || !strings.Contains(err.Error(), "recorded as") {
		t.Errorf("error %v", err)
	}
	wantListed(t, s)
}

func TestAnImagesDamagedDataIsFoundAndAPullBringsIt(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	for name, spoil := range map[string]func(file string) error{
		"missing":   os.Remove,
		"truncated": func(file string) error { return os.Truncate(file, 10) },
		"another": func(file string) error {
			data, err := os.ReadFile(file)
			return errors.Join(err, os.WriteFile(file, []byte(strings.Replace(string(data), "linux", "minux", 1)), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, reg, nil)
			image := pull(t, s, ask(reg.addr+"/a:v"))
			wantListed(t, s, image.ID)
			ok(t, spoil(filepath.Join(s.dataDir(image.ID), dataFileName("sha256:"+image.ID))))
			found, err := s.Check(context.Background(), nil)
			ok(t, err)
			if len(found) != 1 || found[0].Layer != "" || !strings.Contains(found[0].What, image.ID) {
				t.Fatalf("found %+v", found)
			}
			wantListed(t, s)
			pull(t, s, ask(reg.addr+"/a:v"))
			wantListed(t, s, image.ID)
			wantSound(t, s)
		})
	}
}

func TestPullsGoOnWhileALayerIsRead(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	reg.push(t, spec{repo: "b", tag: "v", layers: []packed{layerOf(t, "b", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	var once bool
	found, err := s.Check(context.Background(), func(int, int) {
		if once {
			return
		}
		once = true
		pull(t, s, ask(reg.addr+"/b:v")) // with the store's lock held it would never end
		ok(t, s.Remove(context.Background(), image.ID))
	})
	if err != nil || len(found) > 0 {
		t.Errorf("what was removed meanwhile is no damage: %+v, %v", found, err)
	}
}

func TestACheckEndsWithItsContext(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	ctx, cancel := context.WithCancel(context.Background())
	found, err := s.Check(ctx, func(int, int) { cancel() })
	if messages.KindOf(err) != messages.Canceled || len(found) > 0 {
		t.Errorf("found %v, error %v", found, err)
	}
	wantListed(t, s, image.ID)
}

func TestAQuarantinedLayerStaysWhileAnOlderContainerOfItsImageIsThere(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	dirs, err := s.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	ok(t, os.WriteFile(dirs[0]+"/a", []byte("spoiled"), 0o644))
	before := time.Now()
	if found, err := s.Check(context.Background(), nil); err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	kept := func() int {
		all, err := filepath.Glob(s.quarantineDir() + "/*")
		ok(t, err)
		return len(all)
	}
	sweep := func(users map[string]time.Time, want int) {
		t.Helper()
		ok(t, s.Sweep(context.Background(), users))
		if n := kept(); n != want {
			t.Errorf("%d files are in quarantine, want %d", n, want)
		}
	}
	sweep(map[string]time.Time{image.ID: before, "another": before}, 2)
	// A container of podman's counts too.
	c, err := s.store.CreateContainer("", []string{"theirs"}, "", "", "", nil)
	ok(t, err)
	sweep(map[string]time.Time{image.ID: before}, 2)
	ok(t, s.store.DeleteContainer(c.ID))
	sweep(map[string]time.Time{image.ID: time.Now()}, 0)
}

func TestTheFilesOfALayerAreCountedOnceInItsLife(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	s := open(t, reg, nil)
	image := pull(t, s, ask(reg.addr+"/a:v"))
	first, err := s.Usage(context.Background())
	ok(t, err)
	if first.Inodes != 4 { // two files and two directories
		t.Errorf("%d files", first.Inodes)
	}
	dirs, err := s.LayerDirs(context.Background(), image.ID)
	ok(t, err)
	write(t, dirs[0]+"/more", nil) // would be seen by a walk
	again, err := New(s.cfg)
	ok(t, err)
	if use, err := again.Usage(context.Background()); err != nil || use.Inodes != first.Inodes {
		t.Errorf("after a restart: %+v, %v", use, err)
	}
	ok(t, again.Remove(context.Background(), image.ID))
	if use, err := again.Usage(context.Background()); err != nil || use.Inodes != 0 {
		t.Errorf("after the removal: %+v, %v", use, err)
	}
	var kept map[string]int
	data, err := os.ReadFile(s.countsPath())
	ok(t, err)
	ok(t, json.Unmarshal(data, &kept))
	if len(kept) > 0 {
		t.Errorf("kept: %v", kept)
	}
	write(t, s.countsPath(), []byte("{torn"))
	third, err := New(s.cfg)
	ok(t, err)
	if _, err := third.Usage(context.Background()); err != nil {
		t.Error(err)
	}
}

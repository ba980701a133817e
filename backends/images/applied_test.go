package images

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"golang.org/x/sys/unix"
)

// applied is a store with a pull that has applied both of its layers.
func applied(t *testing.T, also ...spec) (*registry, *Store, backends.Manifest) {
	t.Helper()
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	for _, s := range also {
		reg.push(t, s)
	}
	s := open(t, reg, nil)
	m, err := s.Resolve(context.Background(), ask(reg.addr+"/a:v"))
	ok(t, err)
	for _, l := range m.Layers {
		ok(t, s.Fetch(context.Background(), ask(""), m, l, nil))
	}
	ok(t, s.Apply(context.Background(), ask(""), m, 2))
	for _, id := range chainIDs(m.Layers) {
		if !s.whole(id) {
			t.Errorf("layer %s was not applied", id)
		}
	}
	return reg, s, m
}

func TestAppliedLayersOfAPullThatWasKilledAreThereForTheNextDaemonAndNotTheNextBoot(t *testing.T) {
	reg, s, m := applied(t)
	write(t, s.blobPath("sha256:half")+partialSuffix, []byte("half"))
	again, err := New(s.cfg) // as if killed here
	ok(t, err)
	if !again.whole(chainIDs(m.Layers)[1]) {
		t.Error("they have gone")
	}
	reg.kill(t) // nothing is asked of it any more
	ok(t, again.Fetch(context.Background(), ask(""), m, m.Layers[1], nil))
	markers, _ := filepath.Glob(s.markerPath("*"))
	if len(markers) != 2 {
		t.Fatalf("markers %v", markers)
	}
	for _, path := range markers {
		write(t, path, []byte("another boot"))
	}
	again, err = New(s.cfg)
	ok(t, err)
	wantNothing(t, again)
	if left, _ := filepath.Glob(s.cfg.BlobDir + "/*" + partialSuffix); len(left) != 1 {
		t.Errorf("what has come of a blob is to be there for the retry: %v", left)
	}
}

func TestAppliedLayersNobodyComesBackForAreSwept(t *testing.T) {
	reg, s, m := applied(t)
	chain := chainIDs(m.Layers)
	old := func(ids ...string) {
		for _, id := range ids {
			long := time.Now().Add(-2 * blobAge)
			ok(t, os.Chtimes(s.markerPath(id), long, long))
		}
	}
	old(chain[0])
	ok(t, s.Sweep(context.Background(), nil))
	if !s.whole(chain[0]) || !s.whole(chain[1]) {
		t.Error("a layer that a newer one lies on was swept")
	}
	old(chain...)
	ok(t, s.Sweep(context.Background(), nil))
	wantNothing(t, s)
	// And those of an image stay, however old.
	image := pull(t, s, ask(reg.addr+"/a:v"))
	ok(t, s.Apply(context.Background(), ask(""), m, 2))
	ok(t, s.Sweep(context.Background(), nil))
	if dirs, err := s.LayerDirs(context.Background(), image.ID); err != nil || len(dirs) != 2 {
		t.Errorf("%v, %v", dirs, err)
	}
}

func TestALayerThatOnlyAAppliedOneLiesOnGoesWithIt(t *testing.T) {
	base := layerOf(t, "a", "gzip")
	reg, s, m := applied(t, spec{repo: "base", tag: "v", layers: []packed{base}})
	image := pull(t, s, ask(reg.addr+"/base:v")) // its layer has an image now, and no marker
	ok(t, s.Remove(context.Background(), image.ID))
	if !s.whole(chainIDs(m.Layers)[1]) {
		t.Error("the applied layer has gone with the image")
	}
	s.dropApplied(m.Layers)
	wantNothing(t, s)
}

func TestACommitOfAPullThatHasAppliedKeepsNoMarks(t *testing.T) {
	_, s, m := applied(t)
	image, err := s.Commit(context.Background(), ask(""), m)
	ok(t, err)
	if left, _ := filepath.Glob(s.markerPath("*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	ok(t, s.Remove(context.Background(), image.ID))
	wantNothing(t, s)
}

func TestWhatAPowerCutLeavesBesideTheStoresRecordsGoesAtTheStart(t *testing.T) {
	reg, s, _ := applied(t)
	pull(t, s, ask(reg.addr+"/a:v"))
	root := s.cfg.GraphRoot
	id := strings.Repeat("ab", 32)
	ok(t, os.MkdirAll(s.dataDir(id), 0o700))
	write(t, s.dataDir(id)+"/manifest", []byte("{}"))
	ok(t, os.Symlink("../"+id+"/diff", root+"/overlay/l/GONE"))
	write(t, root+"/overlay-images/.tmp-images.json1", []byte("half"))
	ok(t, os.Symlink("../"+id+"/diff", root+"/overlay/l/YOUNG")) // of somebody who is at work
	links, _ := filepath.Glob(root + "/overlay/l/*")
	left := []string{s.dataDir(id), root + "/overlay/l/GONE", root + "/overlay-images/.tmp-images.json1"}
	for _, path := range left {
		long := []unix.Timeval{{Sec: 1}, {Sec: 1}}
		ok(t, unix.Lutimes(path, long))
	}
	again, err := New(s.cfg)
	ok(t, err)
	again.behind.Wait()
	for _, path := range left {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if now, _ := filepath.Glob(root + "/overlay/l/*"); len(now) != len(links)-1 {
		t.Errorf("of the links %v there are %v", links, now)
	}
}

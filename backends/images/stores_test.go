package images

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// withBase is a store over another one, which skopeo has filled with an image
// of two layers.
func withBase(t *testing.T, reg *registry) (s *Store, base string) {
	t.Helper()
	reg.push(t, spec{repo: "base", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip")}})
	base = tmpfs(t, "16m")
	ref := reg.addr + "/base:v"
	skopeo(t, "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+ref,
		"containers-storage:[overlay@"+base+"+"+t.TempDir()+":overlay.skip_mount_home=true]"+ref)
	return open(t, reg, func(c *Config) { c.StorageOptions = []string{"overlay.imagestore=" + base} }), base
}

// wantLayers checks what the directories of an image hold, the uppermost first.
func wantLayers(t *testing.T, s *Store, id string, words ...string) []string {
	t.Helper()
	dirs, err := s.LayerDirs(context.Background(), id)
	ok(t, err)
	if len(dirs) != len(words) {
		t.Fatalf("layers %v, want %v", dirs, words)
	}
	for i, word := range words {
		if data, err := os.ReadFile(filepath.Join(dirs[i], word)); err != nil || string(data) != "content of "+word {
			t.Errorf("layer %s: %q, %v", dirs[i], data, err)
		}
	}
	return dirs
}

func onlyImage(t *testing.T, s *Store) messages.Image {
	t.Helper()
	list, err := s.List(context.Background())
	ok(t, err)
	if len(list) != 1 {
		t.Fatalf("listed: %+v", list)
	}
	return list[0]
}

func TestAnImageOfAnAdditionalStoreIsListedAndUsedAndNeverRemoved(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s, base := withBase(t, reg)
	image := onlyImage(t, s)
	if want := reg.addr + "/base:v"; len(image.RepoTags) != 1 || image.RepoTags[0] != want || !image.Pinned {
		t.Errorf("it is called %v, want %s, pinned: %v", image.RepoTags, want, image.Pinned)
	}
	for _, dir := range wantLayers(t, s, image.ID, "b", "a") {
		if !strings.HasPrefix(dir, base) {
			t.Errorf("%s is not in %s", dir, base)
		}
	}
	if err := s.Remove(context.Background(), image.ID); messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), "additional") {
		t.Errorf("removal: kind %v, %v", messages.KindOf(err), err)
	}
	wantLayers(t, s, image.ID, "b", "a")
}

func TestAnAdditionalStoreCanBeOnAReadOnlyDisk(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s, base := withBase(t, reg)
	ok(t, s.Close())
	ok(t, unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	again, err := New(s.cfg)
	ok(t, err)
	s.store = again.store // to be closed in its place
	wantLayers(t, again, onlyImage(t, again).ID, "b", "a")
}

func TestAPullTakesTheLayersOfAnAdditionalStore(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "child", tag: "v", layers: []packed{layerOf(t, "a", "gzip"), layerOf(t, "b", "gzip"), layerOf(t, "c", "gzip")}})
	// The same layer elsewhere in a chain.
	reg.push(t, spec{repo: "other", tag: "v", layers: []packed{layerOf(t, "b", "gzip")}})
	s, _ := withBase(t, reg)
	of := onlyImage(t, s)
	for _, c := range []struct {
		repo    string
		fetched int
		words   []string
	}{{"child", 1, []string{"c", "b", "a"}}, {"other", 0, []string{"b"}}} {
		m, err := s.Resolve(context.Background(), ask(reg.addr+"/"+c.repo+":v"))
		ok(t, err)
		fetched := 0
		for _, l := range m.Layers {
			if s.stored(l) == "" {
				fetched++
			}
			ok(t, s.Fetch(context.Background(), ask(""), m, l, nil))
		}
		if fetched != c.fetched {
			t.Errorf("%s: %d layers were fetched, want %d", c.repo, fetched, c.fetched)
		}
		image, err := s.Commit(context.Background(), ask(""), m)
		ok(t, err)
		wantLayers(t, s, image.ID, c.words...)
		ok(t, s.Remove(context.Background(), image.ID))
	}
	wantLayers(t, s, of.ID, "b", "a")
}

func TestAnImageOfAnAdditionalStoreIsPulledAgainWithoutItsLayers(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s, _ := withBase(t, reg)
	of := onlyImage(t, s)
	again := pull(t, s, ask(reg.addr+"/base:v"))
	if again.ID != of.ID || len(again.RepoTags) != 1 {
		t.Errorf("%+v", again)
	}
	layers, err := s.store.Layers()
	ok(t, err)
	if len(layers) != 2 {
		t.Errorf("%d layers, want the base's 2", len(layers))
	}
	// The record that is ours can go; the image is the base's again.
	ok(t, s.Remove(context.Background(), of.ID))
	wantLayers(t, s, onlyImage(t, s).ID, "b", "a")
}

func TestImagesCanHaveADiskOfTheirOwn(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	reg.push(t, spec{repo: "a", tag: "v", layers: []packed{layerOf(t, "a", "gzip")}})
	disk := tmpfs(t, "16m")
	s := open(t, reg, func(c *Config) { c.ImageStore = disk })
	image := pull(t, s, ask(reg.addr+"/a:v"))
	if dirs := wantLayers(t, s, image.ID, "a"); !strings.HasPrefix(dirs[0], disk) {
		t.Errorf("the layer is in %s", dirs[0])
	}
	use, err := s.Usage(context.Background())
	ok(t, err)
	if use.Mountpoint != disk {
		t.Errorf("usage is told of %s", use.Mountpoint)
	}
	ok(t, s.Remove(context.Background(), image.ID))
	wantNothing(t, s)
}

package fake_test

import (
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

func TestImagesShareLayersAndGiveBackTheDisk(t *testing.T) {
	n := fake.New(fake.Config{})
	one, two := pull(t, n, "one"), pull(t, n, "two:v1")
	images := n.Backends().Images
	usage := func() uint64 {
		fs, err := images.Usage(t.Context())
		ok(t, err)
		return fs.UsedBytes
	}
	if one.Size != 1500 || usage() != 2000 {
		t.Errorf("image %d bytes, store %d", one.Size, usage())
	}
	if one.RepoTags[0] != "docker.io/library/one:latest" || two.RepoTags[0] != "docker.io/library/two:v1" {
		t.Errorf("tags %v %v", one.RepoTags, two.RepoTags)
	}
	ok(t, images.Remove(t.Context(), one.ID))
	ok(t, images.Remove(t.Context(), one.ID))
	if usage() != 1500 {
		t.Errorf("store %d", usage())
	}
	ok(t, images.Remove(t.Context(), two.ID))
	if usage() != 0 {
		t.Errorf("store %d", usage())
	}
	wantEmpty(t, n)
}

func TestATagMovesAndADigestStays(t *testing.T) {
	n := fake.New(fake.Config{})
	first := n.Publish("r.example/app:1", fake.Image{Layers: []fake.Layer{{Name: "a", Size: 10}}})
	old, err := tryPull(n, "r.example/app:1", nil)
	ok(t, err)
	n.Publish("r.example/app:1", fake.Image{Layers: []fake.Layer{{Name: "b", Size: 10}}})
	_, err = tryPull(n, "r.example/app:1", nil)
	ok(t, err)
	all, err := n.Backends().Images.List(t.Context())
	ok(t, err)
	if len(all) != 2 {
		t.Fatalf("images %v", all)
	}
	for _, img := range all {
		if tags := len(img.RepoTags); (img.ID == old.ID) != (tags == 0) {
			t.Errorf("image %.12s has %d tags", img.ID, tags)
		}
	}
	again, err := tryPull(n, "r.example/app@"+first, nil)
	ok(t, err)
	if again.ID != old.ID || len(again.RepoDigests) != 1 {
		t.Errorf("by digest: %+v", again)
	}
}

func TestARegistryRefusesWhatItShould(t *testing.T) {
	n := fake.New(fake.Config{})
	auth := &messages.Auth{Username: "u", Password: "p"}
	n.Publish("private", fake.Image{Auth: auth})
	n.Publish("bad", fake.Image{Layers: []fake.Layer{{Name: "x", Size: 100, Corrupt: true}}})
	_, err := tryPull(n, "private", nil)
	wantKind(t, err, messages.Unauthorized)
	_, err = tryPull(n, "private", auth)
	ok(t, err)
	_, err = tryPull(n, "unknown", nil)
	wantKind(t, err, messages.NotFound)
	_, err = tryPull(n, "not a name", nil)
	wantKind(t, err, messages.Invalid)
	if _, err = tryPull(n, "bad", nil); err == nil {
		t.Error("a blob with another digest was taken")
	}
	wantEmpty(t, n)
}

func TestAFullDiskIsNoSpaceAndFreedIsGood(t *testing.T) {
	n := fake.New(fake.Config{Disk: 1000})
	n.AddImage("big", fake.Layer{Name: "l", Size: 700})
	_, err := tryPull(n, "big", nil) // blob and layer are there at once for a moment
	wantKind(t, err, messages.NoSpace)
	n.SetDisk(2000)
	img, err := tryPull(n, "big", nil)
	ok(t, err)
	n.SetDisk(1)
	wantKind(t, n.Backends().Journal.Save(t.Context(), backends.Key{Pod: id(1)}, []byte("xx")), messages.NoSpace)
	ok(t, n.Backends().Images.Remove(t.Context(), img.ID))
	wantEmpty(t, n)
}

func TestCommitFetchesWhatWasRemovedMeanwhile(t *testing.T) {
	n := fake.New(fake.Config{})
	base := pull(t, n, "one") // has the layer "base" too
	images, r := n.Backends().Images, backends.PullRequest{Ref: "two"}
	n.AddImage("two", fake.Layer{Name: "base", Size: 1000})
	m, err := images.Resolve(t.Context(), r)
	ok(t, err)
	ok(t, images.Fetch(t.Context(), r, m, m.Layers[0], nil)) // the store has it
	ok(t, images.Remove(t.Context(), base.ID))
	_, err = images.Commit(t.Context(), r, m)
	ok(t, err)
	wantEmpty(t, n)
}

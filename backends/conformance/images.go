package conformance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// ImagesHarness is an empty image store and a registry it can reach.
type ImagesHarness struct {
	Images backends.Images
	// Publish makes the registry serve an image as repo:tag (instead of what
	// was there) and gives the reference and the digest it is served with. Each
	// layer is known by a word: the same word is the same layer.
	Publish func(t *testing.T, repo, tag string, layers ...string) (ref, digest string)
	// Spoil damages what the store has of a layer, behind its back.
	Spoil func(t *testing.T, layer string)
	// Unreachable is a reference into a registry that does not answer.
	Unreachable string
}

// Images checks the promises of backends.Images.
func Images(t *testing.T, new func(t *testing.T) ImagesHarness) {
	for name, promise := range map[string]func(*testing.T, ImagesHarness){
		"APulledImageIsListedUnderItsNames":              pulledIsListed,
		"AnImageThatIsThereIsPresent":                    presentImage,
		"ADigestNamesAnImage":                            byDigest,
		"ATagThatMovesTakesItsNameAlong":                 movedTag,
		"LayersAreSharedAndStayWithTheLastImage":         sharedLayers,
		"PullsOfImagesWithTheSameLayersAtOnceAllSucceed": pullsAtOnce,
		"RemovingIsIdempotent":                           removing,
		"ADamagedLayerIsPutAsideUntilAPullBringsIt":      damagedLayer,
		"WhatWasPutAsideStaysForContainersThatHaveIt":    sweeping,
		"FetchingAgainIsASuccessAtOnce":                  fetchingAgain,
		"FailuresSayTheirKind":                           imageFailures,
		"ADamagedImageIsFoundAndRemoved":                 damagedRemoval,
		"LayersCanBeAppliedBeforeAllAreFetched":          imageApply,
		"AnEndedContextEndsTheCall":                      imageContext,
	} {
		t.Run(name, func(t *testing.T) { promise(t, new(t)) })
	}
}

// Pull does what the actors do for one image.
func Pull(ctx context.Context, images backends.Images, r backends.PullRequest) (messages.Image, error) {
	m, err := images.Resolve(ctx, r)
	if err != nil {
		return messages.Image{}, err
	}
	if !m.Present {
		for i, l := range m.Layers {
			if err := images.Fetch(ctx, r, m, l, nil); err != nil {
				return messages.Image{}, err
			}
			if i%2 == 0 { // now and then; Commit does the others
				if err := images.Apply(ctx, r, m, i+1); err != nil {
					return messages.Image{}, err
				}
			}
		}
	}
	return images.Commit(ctx, r, m)
}

func pull(t *testing.T, h ImagesHarness, ref string) messages.Image {
	t.Helper()
	image, err := Pull(context30s(t), h.Images, backends.PullRequest{Ref: ref})
	must(t, err)
	return image
}

func listed(t *testing.T, h ImagesHarness, id string) (messages.Image, bool) {
	t.Helper()
	all, err := h.Images.List(context30s(t))
	must(t, err)
	i := slices.IndexFunc(all, func(image messages.Image) bool { return image.ID == id })
	if i < 0 {
		return messages.Image{}, false
	}
	return all[i], true
}

func pulledIsListed(t *testing.T, h ImagesHarness) {
	ref, digest := h.Publish(t, "app", "one", "base", "top")
	before, err := h.Images.Usage(context30s(t))
	must(t, err)
	committed := pull(t, h, ref)
	image, ok := listed(t, h, committed.ID)
	if !ok {
		t.Fatalf("image %s is not listed", committed.ID)
	}
	repo, _, _ := strings.Cut(ref, ":one")
	if !slices.Equal(image.RepoTags, []string{ref}) || !slices.Equal(image.RepoDigests, []string{repo + "@" + digest}) {
		t.Errorf("tags %v, digests %v; want %s, @%s", image.RepoTags, image.RepoDigests, ref, digest)
	}
	if len(image.ID) != 64 || image.Size == 0 {
		t.Errorf("id %q, size %d", image.ID, image.Size)
	}
	after, err := h.Images.Usage(context30s(t))
	must(t, err)
	if after.UsedBytes <= before.UsedBytes || after.Mountpoint == "" || after.At.IsZero() {
		t.Errorf("use before %+v, after %+v", before, after)
	}
}

func presentImage(t *testing.T, h ImagesHarness) {
	ref, digest := h.Publish(t, "app", "one", "base")
	first, err := h.Images.Resolve(context30s(t), backends.PullRequest{Ref: ref})
	must(t, err)
	if first.Present || first.Digest != digest || first.Ref != ref || len(first.Layers) != 1 {
		t.Errorf("before the pull: %+v", first)
	}
	image := pull(t, h, ref)
	second, err := h.Images.Resolve(context30s(t), backends.PullRequest{Ref: ref})
	must(t, err)
	if !second.Present || second.ConfigID != image.ID {
		t.Errorf("after the pull of %s: %+v", image.ID, second)
	}
}

func byDigest(t *testing.T, h ImagesHarness) {
	ref, digest := h.Publish(t, "app", "one", "base")
	exact := strings.TrimSuffix(ref, ":one") + "@" + digest
	image := pull(t, h, exact)
	if len(image.RepoTags) != 0 || !slices.Equal(image.RepoDigests, []string{exact}) {
		t.Errorf("tags %v, digests %v; want only %s", image.RepoTags, image.RepoDigests, exact)
	}
	if tagged := pull(t, h, ref); tagged.ID != image.ID || !slices.Equal(tagged.RepoTags, []string{ref}) {
		t.Errorf("by tag: %+v", tagged)
	}
}

func movedTag(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "latest", "old")
	old := pull(t, h, ref)
	h.Publish(t, "app", "latest", "new")
	image := pull(t, h, ref)
	if image.ID == old.ID || !slices.Contains(image.RepoTags, ref) {
		t.Errorf("old %s, new %+v", old.ID, image)
	}
	if left, ok := listed(t, h, old.ID); !ok || slices.Contains(left.RepoTags, ref) {
		t.Errorf("old image: listed %v with tags %v", ok, left.RepoTags)
	}
}

func sharedLayers(t *testing.T, h ImagesHarness) {
	refA, _ := h.Publish(t, "a", "v", "base", "a")
	refB, _ := h.Publish(t, "b", "v", "base", "b")
	a, b := pull(t, h, refA), pull(t, h, refB)
	must(t, h.Images.Remove(context30s(t), a.ID))
	m, err := h.Images.Resolve(context30s(t), backends.PullRequest{Ref: refB})
	must(t, err)
	if !m.Present {
		t.Errorf("image %s is damaged by the removal of %s", b.ID, a.ID)
	}
	if again := pull(t, h, refA); again.ID != a.ID {
		t.Errorf("pulled again: %s, want %s", again.ID, a.ID)
	}
}

func pullsAtOnce(t *testing.T, h ImagesHarness) {
	var refs []string
	for _, name := range []string{"a", "b", "c"} {
		ref, _ := h.Publish(t, name, "v", "base", "middle", name)
		refs = append(refs, ref, ref)
	}
	var wg sync.WaitGroup
	for _, ref := range refs {
		wg.Go(func() {
			if _, err := Pull(context30s(t), h.Images, backends.PullRequest{Ref: ref}); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		})
	}
	wg.Wait()
	if all, err := h.Images.List(context30s(t)); err != nil || len(all) != 3 {
		t.Errorf("%d images, error %v", len(all), err)
	}
}

func removing(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "one", "base")
	other, _ := h.Publish(t, "app", "two", "base")
	image := pull(t, h, ref)
	pull(t, h, other)
	must(t, h.Images.Remove(context30s(t), image.ID))
	if _, ok := listed(t, h, image.ID); ok {
		t.Error("still listed")
	}
	must(t, h.Images.Remove(context30s(t), image.ID))
	must(t, h.Images.Remove(context30s(t), ID(t)))
}

func damagedLayer(t *testing.T, h ImagesHarness) {
	ref, digest := h.Publish(t, "app", "one", "base", "middle", "top")
	other, _ := h.Publish(t, "app", "two", "base")
	image, sound := pull(t, h, ref), pull(t, h, other)
	check := func() []messages.Damage {
		t.Helper()
		var done, total int
		found, err := h.Images.Check(context30s(t), func(d, n int) { done, total = d, n })
		must(t, err)
		if done != 3 || total != 3 {
			t.Errorf("progress ended at %d of %d layers, there are 3", done, total)
		}
		return found
	}
	if found := check(); len(found) > 0 {
		t.Fatalf("nothing is damaged, found: %+v", found)
	}
	h.Spoil(t, "middle")
	for range 2 { // it stays damaged until it is pulled
		found := check()
		if len(found) != 1 || found[0].Layer == "" || found[0].What == "" || !found[0].Quarantined {
			t.Fatalf("found: %+v", found)
		}
		if names := found[0].Names(); !slices.Equal(names, []string{ref}) || found[0].Images[0].ID != image.ID ||
			found[0].Images[0].Ref != strings.TrimSuffix(ref, ":one")+"@"+digest {
			t.Errorf("its images: %+v", found[0].Images)
		}
	}
	if _, ok := listed(t, h, image.ID); ok {
		t.Error("the damaged image is listed")
	}
	if _, ok := listed(t, h, sound.ID); !ok {
		t.Error("the other image is not listed")
	}
	m, err := h.Images.Resolve(context30s(t), backends.PullRequest{Ref: ref})
	must(t, err)
	if m.Present {
		t.Error("the damaged image is said to be present")
	}
	if again := pull(t, h, ref); again.ID != image.ID {
		t.Errorf("pulled again: %s, want %s", again.ID, image.ID)
	}
	if _, ok := listed(t, h, image.ID); !ok {
		t.Error("it is not listed after the pull")
	}
	if found := check(); len(found) > 0 {
		t.Errorf("after the pull: %+v", found)
	}
}

func damagedRemoval(t *testing.T, h ImagesHarness) {
	ref, digest := h.Publish(t, "app", "one", "base", "top")
	other, _ := h.Publish(t, "app", "two", "base")
	image, sound := pull(t, h, ref), pull(t, h, other)
	h.Spoil(t, "top")
	_, err := h.Images.Check(context30s(t), nil)
	must(t, err)
	for _, name := range []string{image.ID, ref, strings.TrimSuffix(ref, ":one") + "@" + digest} {
		if id, err := h.Images.Unlisted(context30s(t), name); err != nil || id != image.ID {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
	for _, name := range []string{strings.Repeat("0", 64), strings.TrimSuffix(ref, ":one") + ":three", ""} {
		if id, err := h.Images.Unlisted(context30s(t), name); err != nil || id != "" {
			t.Errorf("%q: %q, %v", name, id, err)
		}
	}
	must(t, h.Images.Remove(context30s(t), image.ID))
	if id, err := h.Images.Unlisted(context30s(t), ref); err != nil || id != "" {
		t.Errorf("after the removal: %q, %v", id, err)
	}
	if _, ok := listed(t, h, sound.ID); !ok {
		t.Error("the other image is not listed")
	}
	if found, err := h.Images.Check(context30s(t), nil); err != nil || len(found) > 0 {
		t.Errorf("after the removal: %+v, %v", found, err)
	}
}

func sweeping(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "one", "base")
	image := pull(t, h, ref)
	h.Spoil(t, "base")
	_, err := h.Images.Check(context30s(t), nil)
	must(t, err)
	for range 2 {
		must(t, h.Images.Sweep(context30s(t), map[string]time.Time{image.ID: time.Now().Add(-time.Hour)}))
	}
	must(t, h.Images.Sweep(context30s(t), nil))
	pull(t, h, ref)
	must(t, h.Images.Sweep(context30s(t), nil))
	if _, ok := listed(t, h, image.ID); !ok {
		t.Error("a sweep has taken the image")
	}
}

func fetchingAgain(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "one", "base")
	r := backends.PullRequest{Ref: ref}
	m, err := h.Images.Resolve(context30s(t), r)
	must(t, err)
	var last int64
	for range 2 {
		must(t, h.Images.Fetch(context30s(t), r, m, m.Layers[0], func(p backends.Progress) { last = p.Received }))
		if want := m.Layers[0].Size; want >= 0 && last != want {
			t.Errorf("progress ended at %d of %d", last, want)
		}
	}
	first, err := h.Images.Commit(context30s(t), r, m)
	must(t, err)
	must(t, h.Images.Fetch(context30s(t), r, m, m.Layers[0], nil))
	if second, err := h.Images.Commit(context30s(t), r, m); err != nil || second.ID != first.ID {
		t.Errorf("committed again: %s, error %v; first %s", second.ID, err, first.ID)
	}
}

func imageFailures(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "one", "base")
	repo := strings.TrimSuffix(ref, ":one")
	for ref, want := range map[string]messages.Kind{
		repo + ":no-such-tag":                       messages.NotFound,
		repo + "@sha256:" + strings.Repeat("0", 64): messages.NotFound,
		"Not A Name":                                messages.Invalid,
		h.Unreachable:                               messages.RegistryUnavailable,
	} {
		_, err := h.Images.Resolve(context30s(t), backends.PullRequest{Ref: ref})
		if err == nil || messages.KindOf(err) != want {
			t.Errorf("%s: error %v of kind %v, want kind %v", ref, err, messages.KindOf(err), want)
		}
	}
}

func imageApply(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "v", "one", "two")
	r := backends.PullRequest{Ref: ref}
	m, err := h.Images.Resolve(context30s(t), r)
	must(t, err)
	must(t, h.Images.Fetch(context30s(t), r, m, m.Layers[0], nil))
	must(t, h.Images.Apply(context30s(t), r, m, 1))
	must(t, h.Images.Apply(context30s(t), r, m, 1)) // again: nothing to do
	if all, err := h.Images.List(context30s(t)); err != nil || len(all) != 0 {
		t.Errorf("an image without its last layer is listed: %v, %v", all, err)
	}
	must(t, h.Images.Fetch(context30s(t), r, m, m.Layers[0], nil)) // of another pull
	must(t, h.Images.Fetch(context30s(t), r, m, m.Layers[1], nil))
	image, err := h.Images.Commit(context30s(t), r, m)
	must(t, err)
	must(t, h.Images.Remove(context30s(t), image.ID))
}

func imageContext(t *testing.T, h ImagesHarness) {
	ref, _ := h.Publish(t, "app", "one", "base")
	r := backends.PullRequest{Ref: ref}
	m, err := h.Images.Resolve(context30s(t), r)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.Images.Resolve(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("Resolve: %v", err)
	}
	if err := h.Images.Fetch(ctx, r, m, m.Layers[0], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch: %v", err)
	}
	if err := h.Images.Apply(ctx, r, m, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := h.Images.Commit(ctx, r, m); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	if all, err := h.Images.List(context30s(t)); err != nil || len(all) != 0 {
		t.Errorf("%d images, error %v", len(all), err)
	}
}

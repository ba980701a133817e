//go:build kubelet

package kubelet

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fetch brings an image of that many MiB of noise to the node.
func (n *node) fetch(name string, mib int) (ref string, err error) {
	made, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Ballast: []int{mib << 20}, Files: map[string]string{"name": name}})
	if err != nil {
		return "", err
	}
	if ref, err = world.registry.Push(background, "lab/"+name, "1", made); err != nil {
		return "", err
	}
	_, err = n.cri.Image.PullImage(background, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	return ref, err
}

// images are the names of the node's images, without registry and tag.
func (n *node) images(t *testing.T) []string {
	t.Helper()
	r, err := n.cri.Image.ListImages(background, &runtime.ListImagesRequest{})
	ok(t, err)
	var names []string
	for _, i := range r.Images {
		for _, tag := range i.RepoTags {
			name := tag[strings.LastIndex(tag, "/")+1:]
			names = append(names, strings.TrimSuffix(name, ":1"))
		}
	}
	return names
}

// collector is the node of TestUnusedImagesAreCollectedOthersKept. A kubelet
// collects images every five minutes, and only those it had seen the time
// before: it is started before all tests, and its images are pulled before it
// is.
var collector struct {
	node  *node
	used  string // reference of the image that a pod will use
	err   error
	ready chan struct{}
}

func startCollector() {
	collector.ready = make(chan struct{})
	go func() {
		defer close(collector.ready)
		collector.node, collector.err = makeNode(nodeOptions{
			disk: 500, images: `pinned_images = ["*lab/gc-pinned*"]`,
			config: map[string]any{"imageGCHighThresholdPercent": 5, "imageGCLowThresholdPercent": 1},
			before: func(n *node) (string, error) {
				var err, all error
				for name, mib := range map[string]int{"gc-pinned": 20, "gc-unused": 40, "gc-used": 20} {
					ref := ""
					if ref, err = n.fetch(name, mib); name == "gc-used" {
						collector.used = ref
					}
					all = errors.Join(all, err)
				}
				return "", all
			},
		})
	}()
}

func TestUnusedImagesAreCollectedOthersKept(t *testing.T) {
	t.Parallel()
	<-collector.ready
	ok(t, collector.err)
	n := collector.node
	p := n.pod(t, "containers: [{name: a, image: "+collector.used+"}]")
	p.ready(t)
	full, err := n.disk.Used()
	ok(t, err)
	if full < 10 {
		t.Fatalf("the disk is only %d %% full: nothing to collect for", full)
	}
	for end := time.Now().Add(7 * time.Minute); slices.Contains(n.images(t), "gc-unused"); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("the unused image is still there after 7 min; the kubelet: %s", n.kubelet.Grep("image_gc_manager"))
		}
	}
	for _, kept := range []string{"gc-used", "gc-pinned"} {
		if !slices.Contains(n.images(t), kept) {
			t.Errorf("%s was removed", kept)
		}
	}
	now, err := n.disk.Used()
	ok(t, err)
	if now >= full-5 {
		t.Errorf("the disk was %d %% full and is %d %% full without the unused image of 40 MiB in 500", full, now)
	}
	equal(t, "restarts", p.ready(t).of("a").RestartCount, 0)
}

// A static pod is never evicted; what the kubelet frees for it are the images.
func TestDiskPressureFreesImages(t *testing.T) {
	n := ownNode(t, nodeOptions{disk: 500, config: map[string]any{
		"evictionHard":                     map[string]any{"nodefs.available": "40%", "imagefs.available": "40%"},
		"evictionPressureTransitionPeriod": "1s",
	}})
	used, err := n.fetch("pressure-used", 20)
	ok(t, err)
	_, err = n.fetch("pressure-unused", 100)
	ok(t, err)
	p := n.pod(t, "containers: [{name: a, image: "+used+"}]")
	p.ready(t)
	filler, err := os.Create(n.disk.Dir + "/filler")
	ok(t, err)
	defer filler.Close()
	for full := 0; full < 70; {
		_, err := filler.Write(make([]byte, 5<<20))
		ok(t, err)
		full, err = n.disk.Used()
		ok(t, err)
	}
	eventually(t, "the unused image is removed", func() bool { return !slices.Contains(n.images(t), "pressure-unused") })
	if !slices.Contains(n.images(t), "pressure-used") {
		t.Error("the image in use was removed")
	}
	contains(t, "what the kubelet says", n.kubelet.Grep("attempting to reclaim"), "ephemeral-storage")
	equal(t, "restarts", p.ready(t).of("a").RestartCount, 0)
}

func stop(t *testing.T, n *node, id string) {
	t.Helper()
	_, err := n.cri.Runtime.StopContainer(background, &runtime.StopContainerRequest{ContainerId: id, Timeout: 10})
	ok(t, err)
}

//go:build kubelet

package kubelet

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pull brings an image of that many MiB of noise to the node.
func (n *node) pull(t *testing.T, name string, mib int) (ref string) {
	t.Helper()
	made, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Ballast: []int{mib << 20, len(name)}, Files: map[string]string{"name": name}})
	ok(t, err)
	ref, err = world.registry.Push(background, "lab/"+name, "1", made)
	ok(t, err)
	_, err = n.cri.Image.PullImage(background, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err)
	return ref
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
// collects images when it starts, when it has not known them for long enough,
// and then every five minutes: it is started before all tests.
var collector struct {
	node  *node
	err   error
	ready chan struct{}
}

func startCollector() {
	collector.ready = make(chan struct{})
	go func() {
		defer close(collector.ready)
		collector.node, collector.err = makeNode(nodeOptions{
			disk: 500, pinned: []string{"*lab/gc-pinned*"},
			config: map[string]any{"imageGCHighThresholdPercent": 5, "imageGCLowThresholdPercent": 1},
		})
	}()
}

func TestUnusedImagesAreCollectedOthersKept(t *testing.T) {
	t.Parallel()
	<-collector.ready
	ok(t, collector.err)
	n := collector.node
	used, _, _ := n.pull(t, "gc-used", 20), n.pull(t, "gc-pinned", 20), n.pull(t, "gc-unused", 40)
	p := n.pod(t, "containers: [{name: a, image: "+used+"}]")
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
	used, _ := n.pull(t, "pressure-used", 20), n.pull(t, "pressure-unused", 100)
	p := n.pod(t, "containers: [{name: a, image: "+used+"}]")
	p.ready(t)
	ok(t, os.WriteFile(n.disk.Dir+"/filler", make([]byte, 150<<20), 0o644))
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

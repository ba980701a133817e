package e2e

import (
	"bufio"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// badLine is a node that pulls through a faulty registry.
func badLine(t *testing.T, options func(*harness.DaemonOptions)) (*node, *harness.FaultyRegistry) {
	t.Helper()
	lab := must(harness.NewLab())(t)
	t.Cleanup(func() { ok(t, lab.Close()) })
	behind := must(lab.StartRegistry(t.Context(), harness.RegistryOptions{Username: "kube", Password: "secret"}))(t)
	f := must(lab.StartFaulty(behind))(t)
	n := ownNode(t, func(o *harness.DaemonOptions) {
		o.Insecure = append(o.Insecure, f.Host)
		if options != nil {
			options(o)
		}
	})
	n.registry = behind
	return n, f
}

// behind makes an image in the registry behind the faulty one.
func (n *node) behind(t *testing.T, f *harness.FaultyRegistry, name string, ballast ...int) (ref string, img *harness.Image) {
	t.Helper()
	_, img = n.made(t, name, harness.ImageSpec{Ballast: ballast})
	return f.Host + "/lab/" + name + ":1", img
}

func (n *node) pull(ctx context.Context, ref string) (string, error) {
	r, err := n.cri.Image.PullImage(ctx, &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: ref}, Auth: &runtime.AuthConfig{Username: "kube", Password: "secret"},
	})
	return r.GetImageRef(), err
}

// pulling starts a pull that must succeed in the end.
func (n *node) pulling(t *testing.T, ref string) (ended func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	done := make(chan error, 1)
	go func() { _, err := n.pull(ctx, ref); done <- err }()
	return func() {
		t.Helper()
		defer cancel()
		ok(t, <-done)
	}
}

func (n *node) troupe(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.daemon.Command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("troupe %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func eachBlobOnce(t *testing.T, f *harness.FaultyRegistry, imgs ...*harness.Image) {
	t.Helper()
	for _, img := range imgs {
		for _, digest := range img.LayerOrder {
			equal(t, "how often the registry was asked for "+digest, f.Asked(digest), 1)
		}
	}
}

func TestTenCallersOfOneImageAreOnePull(t *testing.T) {
	n, f := badLine(t, nil)
	ref, img := n.behind(t, f, "ten", 600_000, 600_001)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			id, err := n.pull(t.Context(), ref)
			if err != nil || id != strings.TrimPrefix(img.ConfigID, "sha256:") {
				t.Errorf("got %s, %v", id, err)
			}
		})
	}
	wg.Wait()
	eachBlobOnce(t, f, img)
}

func TestTwoImagesFetchTheLayerTheyShareOnce(t *testing.T) {
	n, f := badLine(t, nil)
	one, first := n.behind(t, f, "one", 700_000, 10_000)
	two, second := n.behind(t, f, "two", 700_000, 20_000)
	equal(t, "the second layer of both", first.LayerOrder[1], second.LayerOrder[1])
	begun := []func(){n.pulling(t, one), n.pulling(t, two)}
	for _, ended := range begun {
		ended()
	}
	eachBlobOnce(t, f, first, second)
	list := n.troupe(t, "images")
	contains(t, "troupe images", list, one, two, "UNIQUE", "LAYERS", "IN USE BY", "PINNED")
}

func TestACallersDeadlineEndsOnlyItsOwnWaitAndTheOthersGetTheImage(t *testing.T) {
	n, f := badLine(t, nil)
	ref, img := n.behind(t, f, "late", 3_000_000)
	f.Set(harness.Hang)
	ended := n.pulling(t, ref)
	eventually(t, "it is under way", func() bool { return strings.Contains(n.troupe(t, "images", "pulls"), "fetching") })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := n.pull(ctx, ref)
	refused(t, err, code(codes.DeadlineExceeded), ref+" is not done in time", "received", "of 2 layers ready", "it goes on, since others wait")
	f.Set(harness.Healthy)
	f.Release()
	ended()
	equal(t, "images", len(n.images(t)), 2)
	if f.Asked(img.LayerOrder[1]) < 2 {
		t.Error("the layer was never cut: the test shows nothing")
	}
}

func TestWrongCredentialsAreRefusedBesideAPullOfTheSameImage(t *testing.T) {
	n, f := badLine(t, nil)
	ref, _ := n.behind(t, f, "rights", 900_000)
	f.Set(harness.Hang)
	ended := n.pulling(t, ref)
	eventually(t, "the pull is under way", func() bool { return strings.Contains(n.troupe(t, "images", "pulls"), "fetching") })
	_, err := n.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{
		Image: &runtime.ImageSpec{Image: ref}, Auth: &runtime.AuthConfig{Username: "kube", Password: "wrong"},
	})
	refused(t, err, anyCode, "step resolve")
	f.Set(harness.Healthy)
	f.Release()
	ended()
}

func TestAStalledPullIsSeenAndEndsWithWhatIsSaid(t *testing.T) {
	n, f := badLine(t, func(o *harness.DaemonOptions) { o.Images = `pull_progress_timeout = "8s"` })
	ref, img := n.behind(t, f, "stall", 5_000_000)
	watch := n.daemon.Command("images", "--watch")
	out := must(watch.StdoutPipe())(t)
	ok(t, watch.Start())
	var seen strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			seen.WriteString(lines.Text() + "\n")
		}
	}()
	f.Set(harness.Hang)
	_, err := n.pull(t.Context(), ref)
	refused(t, err, code(codes.DeadlineExceeded), "pull of "+ref, "MB received, 0 B/s for 8s (stalled since ", "of 2 layers ready", "pull_progress_timeout")
	timeline := n.troupe(t, "timeline")
	contains(t, "troupe timeline", timeline, "pull "+ref+": failed", "stalled", "resolving → fetching")
	eventually(t, "the failed pull is listed", func() bool { return strings.Contains(n.troupe(t, "images", "pulls"), "failed") })

	f.Set(harness.CutRanges) // and now a line that is cut again and again
	id, err := n.pull(t.Context(), ref)
	ok(t, err)
	equal(t, "the image", id, strings.TrimPrefix(img.ConfigID, "sha256:"))
	time.Sleep(time.Second) // a watch looks five times a second
	ok(t, watch.Process.Kill())
	<-read
	_ = watch.Wait() // killed
	text := seen.String()
	layer := strings.TrimPrefix(img.LayerOrder[1], "sha256:")[:13]
	contains(t, "troupe images --watch", text, ref+" fetching", layer+" downloading", "stalled for", ref+" failed: pull of", ", try 2: ", ref+" done in")
	if t.Failed() {
		t.Logf("watched:\n%s", text)
	}
}

func TestAnImageIsLoadedFromAnArchiveOrRefusedInWords(t *testing.T) {
	n := ownNode(t, nil)
	for source, complaint := range map[string]string{
		"ftp:/somewhere":              "docker-archive",
		"docker-archive:/no/such.tar": "/no/such.tar",
		"nothing":                     "docker-archive:FILE",
	} {
		out, err := n.daemon.Command("images", "load", source).CombinedOutput()
		if err == nil {
			t.Errorf("loading %s succeeded: %s", source, out)
		}
		contains(t, "the complaint about "+source, string(out), complaint)
	}
}

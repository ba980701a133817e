package messages

import (
	"strings"
	"testing"
	"time"
)

func TestHowFarAPullIsIsSaidByTheLayerThatHoldsItUp(t *testing.T) {
	now := time.Date(2026, 1, 2, 10, 7, 11, 0, time.UTC)
	layers := []LayerProgress{
		{Digest: "sha256:a", State: LayerReady, Received: 60e6, Size: 60e6},
		{Digest: "sha256:b", State: LayerDownloading, Received: 12e6, Size: 90e6, Moved: now.Add(-5 * time.Minute), Stalled: true, Tries: 3, Trouble: "connection reset"},
		{Digest: "sha256:c", State: LayerDownloading, Received: 1e6, Size: 400e6, Rate: 2e6, Moved: now},
		{Digest: "sha256:d", State: LayerWaiting, Size: 900e6},
	}
	p := PullProgress{Ref: "x", State: "fetching", Layers: layers}
	want := "layer sha256:b: 12.0 of 90.0 MB received, 0 B/s for 5m0s (stalled since 10:02:11), tried 3 times, the last because of: connection reset; " +
		"1 of 4 layers ready, 0.1 of 1.4 GB received in all"
	if got := p.Describe(now); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !p.StalledSince().IsZero() {
		t.Error("it stands still although a layer moves")
	}
	p.Layers = []LayerProgress{layers[0], layers[1], layers[3]}
	if !p.StalledSince().Equal(layers[1].Moved) {
		t.Errorf("it stands still since %s", p.StalledSince())
	}
	p.Layers = []LayerProgress{layers[2], layers[3]}
	if got := p.Describe(now); !strings.HasPrefix(got, "layer sha256:c: 1.0 of 400.0 MB received, 2.0 MB/s; ") {
		t.Errorf("of one that moves and one that waits: %s", got)
	}
	if left := p.Left(); left != (400+900-1)*time.Second/2 {
		t.Errorf("left: %s", left)
	}
	p.Layers[1].Size = -1
	if p.Left() != 0 || p.Size() != -1 || !strings.HasSuffix(p.Describe(now), "1.0 MB received in all") {
		t.Errorf("of unknown size: %s, %d, %s", p.Left(), p.Size(), p.Describe(now))
	}
	p = PullProgress{Ref: "x", State: "resolving", Since: now.Add(-time.Second)}
	if got := p.Describe(now); got != "resolving for 1s" {
		t.Errorf("before its layers are known: %s", got)
	}
}

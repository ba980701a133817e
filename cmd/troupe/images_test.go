package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func fetching(received int64, stalled *timestamppb.Timestamp) *debugv1.PullsResponse {
	return &debugv1.PullsResponse{Pulls: []*debugv1.Pull{{
		Reference: "a/b:c", State: "fetching", Waiters: 3, Received: 1<<20 + received, Size: 3 << 20, Rate: 1 << 10, Begun: timestamppb.New(time.Unix(1, 0)),
		StalledSince: stalled,
		Layers: []*debugv1.Layer{
			{Digest: "sha256:" + strings.Repeat("a", 64), State: "ready", Received: 1 << 20, Size: 1 << 20},
			{Digest: "sha256:" + strings.Repeat("b", 64), State: "downloading", Received: received, Size: 2 << 20, Rate: 1 << 10, StalledSince: stalled, Tries: 2, Trouble: "evil\x1b[31m"},
		},
	}}}
}

func TestImagesAndPullsAreTables(t *testing.T) {
	text := render(func(tb *table) {
		showImages(tb, &debugv1.ListImagesResponse{Images: []*debugv1.Image{
			{Id: strings.Repeat("ab", 32), Tags: []string{"a:1", "a:2"}, Size: 1 << 20, Unique: -1, Layers: 3, Containers: 2, Pinned: true},
			{Id: strings.Repeat("cd", 32), Digests: []string{"a@sha256:1"}},
		}})
	})
	for _, want := range []string{"a:1         ababababababa  1.0 MiB  ?       3       2 containers  yes", "a:2 ", "a@sha256:1  cdcdcdcdcdcdc  0 B      0 B     0       -             no"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	text = render(func(tb *table) { showPulls(tb, fetching(512<<10, nil)) })
	for _, want := range []string{"a/b:c", "1/2", "1.5 MiB", "3.0 MiB", "1.0 KiB/s"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestAWatchOnAPipeWritesALineForEachChangeOnly(t *testing.T) {
	var out bytes.Buffer
	w := newLines(&out)
	show := func(r *debugv1.PullsResponse) []string {
		out.Reset()
		if err := w.show(r); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(out.String()), "\n")
	}
	if got := show(fetching(0, nil)); len(got) != 3 || strings.Contains(strings.Join(got, ""), "\x1b") {
		t.Errorf("at first: %q", got)
	}
	if got := show(fetching(1000, nil)); got[0] != "" {
		t.Errorf("after a few bytes: %q", got)
	}
	if got := show(fetching(1<<20, nil)); len(got) != 1 || !strings.Contains(got[0], "bbbbbbbbbbbbb downloading 1.0 MiB of 2.0 MiB, 1.0 KiB/s, try 2: evil") {
		t.Errorf("after half of it: %q", got)
	}
	if got := show(fetching(1<<20, timestamppb.New(time.Now().Add(-7*time.Second)))); len(got) != 1 || !strings.Contains(got[0], "stalled for 7") {
		t.Errorf("when it stands still: %q", got)
	}
	ended := &debugv1.PullsResponse{Ended: []*debugv1.Pull{{Reference: "a/b:c", State: "done", Begun: timestamppb.New(time.Unix(1, 0)), Since: timestamppb.New(time.Unix(4, 0))}}}
	if got := show(ended); len(got) != 1 || got[0] != "a/b:c done in 3s" {
		t.Errorf("at the end: %q", got)
	}
}

func TestAWatchOnATerminalDrawsOverWhatItDrew(t *testing.T) {
	frame := drawing(fetching(1<<20, nil).GetPulls())
	if len(frame) != 2 || !strings.HasPrefix(frame[1], "  [==========          ] bbbbbbbbbbbbb downloading") {
		t.Errorf("the drawing is %q", frame)
	}
	if got := clip("äöüß", 3); got != "äö…" {
		t.Errorf("cut to three: %s", got)
	}
	file, err := os.CreateTemp(t.TempDir(), "") // no terminal: it is as wide as the default
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := &screen{out: file}
	for _, r := range []*debugv1.PullsResponse{fetching(0, nil), fetching(1<<20, nil), {}} {
		if err := s.show(r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file.Name())
	if err != nil || strings.Count(string(text), "\x1b[2A\x1b[J") != 2 || !strings.HasSuffix(string(text), "no pulls under way\n") {
		t.Errorf("%v: drawn %q", err, text)
	}
	for line := range strings.Lines(string(text)) {
		if len([]rune(strings.TrimPrefix(line, "\x1b[2A\x1b[J"))) > 80 {
			t.Errorf("a line wraps: %q", line)
		}
	}
}

func TestASourcesPathIsMadeAbsolute(t *testing.T) {
	here, _ := os.Getwd()
	for source, want := range map[string]string{
		"oci:dir:tag": "oci:" + here + "/dir:tag", "docker-archive:/x.tar:a:1": "docker-archive:/x.tar:a:1", "image.tar": "", "dir:": "",
	} {
		if got, err := absoluteSource(source); got != want || (err != nil) != (want == "") {
			t.Errorf("%s became %q, %v", source, got, err)
		}
	}
	if code, _, errs := cli("images", "--watch", "-o", "json"); code != exitUsage || !strings.Contains(errs, "exclude each other") {
		t.Errorf("%d %s", code, errs)
	}
}

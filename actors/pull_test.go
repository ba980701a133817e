package actors_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	"github.com/troupe-run/troupe/supervisor"
)

func fetches(g *gate) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.keys)
}

// pulling is the only pull of an image under way.
func (s *scene) pulling(ref string) (messages.PullProgress, bool) {
	for _, p := range s.tree.View().Pulls() {
		if p.Ref == ref {
			return p, true
		}
	}
	return messages.PullProgress{}, false
}

func (s *scene) noActorsOfPulls() {
	s.t.Helper()
	s.until("no actor of a pull is left", func() bool {
		return !slices.ContainsFunc(s.tree.View().Tree(), func(a messages.ActorInfo) bool { return a.Kind == "pull" || a.Kind == "layer" })
	})
}

func (s *scene) waiting(ref string, layers int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d layers of %s wait for their turn", layers, ref), func() bool {
		p, n := messages.PullProgress{}, 0
		p, _ = s.pulling(ref)
		for _, l := range p.Layers {
			if l.State == messages.LayerWaiting {
				n++
			}
		}
		return n == layers
	})
}

func TestTheBiggestLayerOfAllPullsIsFetchedFirstAndNothingElseWaitsForIt(t *testing.T) {
	limits := supervisor.DefaultLimits()
	limits.Layer = 1
	s := newSceneWith(t, limits)
	begun := len(fetches(s.gate))
	s.node.AddImage("a:1", fake.Layer{Name: "first", Size: 10})
	s.node.AddImage("b:1", fake.Layer{Name: "b5", Size: 500}, fake.Layer{Name: "b1", Size: 100}, fake.Layer{Name: "b9", Size: 900})
	s.node.AddImage("c:1", fake.Layer{Name: "c7", Size: 700}, fake.Layer{Name: "c3", Size: 300})
	s.gate.hold("Images.Fetch")
	a := s.begin(messages.PullImage{Ref: "a:1"})
	s.until("the first fetch has the only place", func() bool { return len(fetches(s.gate)) == begun+1 })
	b := s.begin(messages.PullImage{Ref: "b:1"})
	s.waiting("b:1", 3)
	c := s.begin(messages.PullImage{Ref: "c:1"}) // it is resolved though all places are taken
	s.waiting("c:1", 2)
	s.must(messages.PullImage{Ref: "registry.local/app:1"}) // and what needs no download is committed
	s.gate.open()
	for _, end := range []<-chan error{a, b, c} {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
	m := map[string]string{}
	for _, p := range s.tree.View().EndedPulls() {
		for _, l := range p.Layers {
			m[l.Digest] = fmt.Sprint(l.Size)
		}
	}
	var order []string
	for _, digest := range fetches(s.gate)[begun:] {
		order = append(order, m[digest])
	}
	if got := strings.Join(order, " "); got != "10 900 700 500 300 100" {
		t.Errorf("layers were fetched in the order %s", got)
	}
}

func TestADownloadThatStandsStillKeepsNoOtherFromItsTurn(t *testing.T) {
	limits := supervisor.DefaultLimits()
	limits.Layer = 1
	s := newSceneWith(t, limits)
	begun := len(fetches(s.gate))
	s.node.AddImage("silent:1", fake.Layer{Name: "silent", Size: 1000})
	s.node.AddImage("good:1", fake.Layer{Name: "good", Size: 10})
	s.node.AddImage("late:1", fake.Layer{Name: "late", Size: 10})
	s.gate.hold("Images.FetchMore")
	silent := s.begin(messages.PullImage{Ref: "silent:1"})
	s.until("the first fetch has the only place", func() bool { return len(fetches(s.gate)) == begun+1 })
	good := s.begin(messages.PullImage{Ref: "good:1"})
	s.waiting("good:1", 1)
	s.until("the first is shown as stalled, and the second has its place", func() bool {
		p, _ := s.pulling("silent:1")
		return len(fetches(s.gate)) == begun+2 && p.Layers[0].Stalled
	})
	s.gate.open()
	for _, end := range []<-chan error{silent, good, s.begin(messages.PullImage{Ref: "late:1"})} {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
	s.noActorsOfPulls()
}

func TestACallersDeadlineEndsOnlyItsOwnWaitAndSaysHowFarThePullIs(t *testing.T) {
	s := newScene(t)
	s.node.AddImage("big:1", fake.Layer{Name: "big", Size: 90_000_000}, fake.Layer{Name: "base", Size: 1000})
	s.gate.hold("Images.FetchMore")
	patient := s.begin(messages.PullImage{Ref: "big:1"})
	s.until("a quarter is here", func() bool { p, _ := s.pulling("big:1"); return p.Received() > 22_000_000 && p.Ready() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.tree.Ask(ctx, messages.PullImage{Ref: "big:1"})
	if messages.KindOf(err) != messages.Deadline {
		t.Errorf("got %v", err)
	}
	for _, part := range []string{"pull of big:1 is not done in time", "22.5 of 90.0 MB received", "1 of 2 layers ready", "it goes on, since others wait"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	s.gate.open()
	if err := <-patient; err != nil {
		t.Errorf("the other caller got %v", err)
	}
	s.noActorsOfPulls()
}

func TestTwoPullsFetchASharedLayerOnceAndOneMayLeave(t *testing.T) {
	s := newScene(t)
	shared := fake.Layer{Name: "shared", Size: 1000}
	s.node.AddImage("one:1", shared, fake.Layer{Name: "one", Size: 10})
	s.node.AddImage("two:1", shared, fake.Layer{Name: "two", Size: 10})
	begun := len(fetches(s.gate))
	s.gate.hold("Images.FetchMore")
	ctx, leave := context.WithCancel(t.Context())
	one := make(chan error, 1)
	go func() { _, err := s.tree.Ask(ctx, messages.PullImage{Ref: "one:1"}); one <- err }()
	s.until("the first fetches", func() bool { p, _ := s.pulling("one:1"); return p.Received() > 0 })
	two := s.begin(messages.PullImage{Ref: "two:1"})
	s.until("both see the shared layer's bytes", func() bool {
		p, _ := s.pulling("two:1")
		return slices.ContainsFunc(p.Layers, func(l messages.LayerProgress) bool { return l.Size == 1000 && l.Received > 0 })
	})
	leave()
	if err := <-one; messages.KindOf(err) != messages.Canceled || !strings.Contains(err.Error(), "nobody else waits") {
		t.Errorf("who left got %v", err)
	}
	s.until("its pull has ended", func() bool { _, there := s.pulling("one:1"); return !there })
	s.gate.open()
	if err := <-two; err != nil {
		t.Errorf("the other got %v", err)
	}
	s.noActorsOfPulls()
	if n := len(fetches(s.gate)) - begun; n != 3 {
		t.Errorf("%d fetches for three layers", n)
	}
}

func TestACallerWithoutTheRightIsRefusedBesideAPullOfTheSameImage(t *testing.T) {
	s := newScene(t)
	right := &messages.Auth{Username: "kube", Password: "right"}
	s.node.Publish("private:1", fake.Image{Layers: []fake.Layer{{Name: "secret", Size: 1000}}, Auth: right})
	s.gate.hold("Images.FetchMore")
	good := s.begin(messages.PullImage{Ref: "private:1", Auth: right})
	s.until("it is fetched", func() bool { p, _ := s.pulling("private:1"); return p.State == "fetching" })
	for _, wrong := range []*messages.Auth{nil, {Username: "kube", Password: "wrong"}} {
		if err := <-s.begin(messages.PullImage{Ref: "private:1", Auth: wrong}); messages.KindOf(err) != messages.Unauthorized {
			t.Errorf("with %v: %v", wrong, err)
		}
	}
	// The same rights for another namespace: another policy may hold there.
	other := s.begin(messages.PullImage{Ref: "private:1", Auth: right, Namespace: "n"})
	s.until("there are two pulls", func() bool { return len(s.tree.View().Pulls()) == 2 })
	s.gate.open()
	for _, end := range []<-chan error{good, other} {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
}

func TestAFailedPullSaysHowFarItWasAndLeavesItsStory(t *testing.T) {
	s := newScene(t)
	s.node.AddImage("spoilt:1", fake.Layer{Name: "fine", Size: 1000}, fake.Layer{Name: "bad", Size: 40_000_000, Corrupt: true})
	err := <-s.begin(messages.PullImage{Ref: "spoilt:1"})
	for _, part := range []string{"pull of spoilt:1: layer sha256:", "30.0 of 40.0 MB received", "of 2 layers ready", "another digest"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	ended := s.tree.View().EndedPulls()
	last := ended[len(ended)-1]
	var story []string
	for _, e := range last.Timeline {
		story = append(story, e.To)
	}
	if text := strings.Join(story, " "); last.State != "failed" || last.Error != err.Error() || !strings.HasPrefix(text, "resolving fetching") || !strings.HasSuffix(text, "failed") {
		t.Errorf("its story is %s: %s, %s", text, last.State, last.Error)
	}
}

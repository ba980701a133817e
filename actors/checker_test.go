package actors_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

func (s *scene) check(repair bool) messages.CheckReport {
	s.t.Helper()
	return s.must(messages.CheckImages{Repair: repair}).(messages.CheckReport)
}

func (s *scene) checker() messages.ActorInfo {
	for _, a := range s.tree.View().Tree() {
		if a.Kind == "checker" {
			return a
		}
	}
	return messages.ActorInfo{}
}

func TestADamagedImageIsNotListedWhenTheCheckIsAnsweredAndARepairBringsIt(t *testing.T) {
	s := newScene(t)
	s.node.AddImage("registry.local/other:1", fake.Layer{Name: "base", Size: 1000}, fake.Layer{Name: "more", Size: 10})
	s.must(messages.PullImage{Ref: "registry.local/other:1"})
	if r := s.check(true); r.Layers != 2 || len(r.Damage)+len(r.Repairs) > 0 {
		t.Errorf("nothing is damaged: %+v", r)
	}
	s.node.SpoilLayer("more")
	r := s.check(false)
	if len(r.Damage) != 1 || len(r.Repairs) != 0 || r.Damage[0].Names()[0] != "registry.local/other:1" {
		t.Errorf("a layer is damaged: %+v", r)
	}
	if _, ok := s.tree.View().Image("registry.local/other:1"); ok {
		t.Error("the damaged image is listed")
	}
	r = s.check(true)
	if len(r.Damage) != 1 || len(r.Repairs) != 1 || r.Repairs[0].Err != "" {
		t.Errorf("with a repair: %+v", r)
	}
	if _, ok := s.tree.View().Image("registry.local/other:1"); !ok {
		t.Error("the repaired image is not listed")
	}
	if r := s.check(false); len(r.Damage) > 0 {
		t.Errorf("after the repair: %+v", r)
	}
}

func TestADamagedImageCanBeRemovedThoughItIsNotListed(t *testing.T) {
	s := newScene(t)
	s.node.AddImage("registry.local/other:1", fake.Layer{Name: "base", Size: 1000}, fake.Layer{Name: "more", Size: 10})
	s.must(messages.PullImage{Ref: "registry.local/other:1"})
	s.node.SpoilLayer("more")
	s.check(false)
	s.must(messages.RemoveImage{Ref: "registry.local/other:1"})
	if id, err := s.node.Backends().Images.Unlisted(t.Context(), "registry.local/other:1"); err != nil || id != "" {
		t.Errorf("its record is there: %q, %v", id, err)
	}
	if r := s.check(false); r.Layers != 1 || len(r.Damage) > 0 {
		t.Errorf("after the removal: %+v", r)
	}
}

func TestARepairThatFailsSaysWhyAndTheOthersGoOn(t *testing.T) {
	s := newScene(t)
	s.node.AddImage("elsewhere.local/other:1", fake.Layer{Name: "base", Size: 1000}, fake.Layer{Name: "more", Size: 10})
	s.must(messages.PullImage{Ref: "elsewhere.local/other:1"})
	s.node.SpoilLayer("base")
	s.node.SetRegistry("elsewhere.local", true)
	r := s.check(true)
	if len(r.Damage) != 1 || len(r.Damage[0].Images) != 2 || len(r.Repairs) != 2 {
		t.Fatalf("a layer of two images is damaged: %+v", r)
	}
	for _, repair := range r.Repairs {
		if failed := strings.Contains(repair.Err, "connection refused"); failed != strings.HasPrefix(repair.Image.Name, "elsewhere") {
			t.Errorf("%s: %q", repair.Image.Name, repair.Err)
		}
	}
}

func TestThereIsOneCheckAtATimeAndItEndsWithItsLastCaller(t *testing.T) {
	s := newScene(t)
	s.gate.hold("Images.Check")
	first, second := s.begin(messages.CheckImages{}), s.begin(messages.CheckImages{})
	s.until("a check is under way", func() bool { return s.gate.seen("Images.Check") > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.tree.Ask(ctx, messages.CheckImages{}); err == nil {
		t.Error("a check that cannot end was answered")
	}
	if state := s.checker().State; state != "checking" {
		t.Errorf("two still wait for it, and it is %q", state)
	}
	s.gate.open()
	for _, answer := range []<-chan error{first, second} {
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
	if n := s.gate.seen("Images.Check"); n != 1 {
		t.Errorf("one layer was read %d times", n)
	}
	s.gate.hold("Images.Check")
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.tree.Ask(ctx, messages.CheckImages{}); err == nil {
		t.Error("a check that cannot end was answered")
	}
	late := s.begin(messages.CheckImages{}) // comes while the other is ending
	s.gate.open()
	if err := <-late; err != nil {
		t.Errorf("who came while an abandoned check was ending: %v", err)
	}
	s.until("the check is over", func() bool { return s.checker().State == "idle" })
}

func TestPodsAndPullsGoOnDuringACheck(t *testing.T) {
	s := newScene(t)
	s.gate.hold("Images.Check")
	answer := s.begin(messages.CheckImages{})
	s.until("a check is under way", func() bool { return s.gate.seen("Images.Check") > 0 })
	s.pod = s.must(s.run()).(string)
	s.created()
	s.must(s.start())
	s.node.AddImage("registry.local/other:1", fake.Layer{Name: "more", Size: 10})
	s.must(messages.PullImage{Ref: "registry.local/other:1"})
	s.gate.open()
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

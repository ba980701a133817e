//go:build !race

package actors_test

import (
	"testing"

	"github.com/troupe-run/troupe/messages"
)

// costs are the allocations of each operation on the whole tree of actors, with
// backends that cost little: how many there are does not depend on the machine.
// Whoever makes one dearer sees it here; whoever makes one cheaper lowers the
// figure.
var costs = map[string]float64{
	"a pod's life":  1665,
	"an ExecSync":   98,
	"a list of 100": 0,
}

// tolerated: what runs beside it (timers, the collector) allocates too.
const tolerated = 1.05

func TestAnOperationAllocatesNoMoreThanItDid(t *testing.T) {
	s := newScene(t)
	measured := map[string]float64{}
	life := func() {
		s.pod = s.must(s.run()).(string)
		s.created()
		s.must(s.start())
		s.must(messages.StopContainer{Pod: s.pod, Container: s.cont})
		s.must(messages.RemoveContainer{Pod: s.pod, Container: s.cont})
		s.must(messages.StopPod{Pod: s.pod})
		s.must(messages.RemovePod{Pod: s.pod})
	}
	measured["a pod's life"] = testing.AllocsPerRun(50, life)
	s.pod = s.must(s.run()).(string)
	s.created()
	s.must(s.start())
	measured["an ExecSync"] = testing.AllocsPerRun(200, func() {
		s.must(messages.ExecSync{Pod: s.pod, Container: s.cont, Command: []string{"true"}})
	})
	for range 99 {
		config := s.run()
		config.Config.Metadata.Uid += string(rune('a' + len(s.tree.View().Pods())))
		s.must(config)
	}
	measured["a list of 100"] = testing.AllocsPerRun(200, func() { s.tree.View().Pods() })
	for what, now := range measured {
		t.Logf("%s: %.0f allocations", what, now)
		switch was := costs[what]; {
		case now > was*tolerated:
			t.Errorf("%s allocates %.0f times, it was %.0f: see what the change costs (go test -run %s -memprofile)", what, now, was, t.Name())
		case now < was/tolerated:
			t.Errorf("%s allocates %.0f times, it was %.0f: well done; lower the figure, so that it stays", what, now, was)
		}
	}
}

package actors_test

import (
	"sync/atomic"
	"testing"

	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

// The monitor dies in the middle of a start, and the next one is there soon. What
// the container did is what counts, not what became of the answer.
func TestAStartWhoseAnswerIsLostIsWhatItWas(t *testing.T) {
	for name, c := range map[string]struct {
		effect bool // it had started
		ends   bool // and ended, with 4
	}{
		"it runs":          {effect: true},
		"it has ended":     {effect: true, ends: true},
		"it was not begun": {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.pod = s.must(s.run()).(string)
			s.created()
			var lost atomic.Bool
			s.gate.fail = func(call fake.Call, effect bool) error {
				if call.Backend+"."+call.Method != "Runtime.Start" || effect != c.effect || lost.Swap(true) {
					return nil
				}
				s.node.CrashMonitor()
				if c.ends {
					s.node.Kill(s.cont, 4, false)
				}
				return messages.Errorf(messages.Unavailable, "the connection ended")
			}
			s.must(s.start())
			if !lost.Load() {
				t.Fatal("no answer was lost: the test shows nothing")
			}
			want := messages.ContainerRunning
			if c.ends {
				want = messages.ContainerExited
			}
			s.until("it is "+string(want), func() bool { return s.containerState() == want })
			view, err := s.tree.View().Container(s.cont)
			if err != nil {
				t.Fatal(err)
			}
			if c.ends && view.ExitCode != 4 {
				t.Errorf("it ended with 4 and is shown with %d, %s %s", view.ExitCode, view.Reason, view.Message)
			}
		})
	}
}

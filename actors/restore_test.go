package actors_test

import (
	"context"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// captured makes a checkpoint and gives what restores it.
func (s *scene) captured() messages.RestorePod {
	s.t.Helper()
	s.pod = s.must(s.run()).(string)
	s.created()
	s.must(s.start())
	s.must(messages.CheckpointPod{Pod: s.pod, Dir: "/ck", Containers: []string{s.cont}})
	s.must(messages.RemovePod{Pod: s.pod})
	second := s.create().Config
	second.Metadata.Name = "d"
	return messages.RestorePod{Dir: "/ck", Handler: "h", Config: podConfig(), Containers: []*runtime.ContainerConfig{s.create().Config, second}}
}

// empty says whether there is nothing but the image.
func (s *scene) empty() {
	s.t.Helper()
	if pods, containers := s.tree.View().Pods(), s.tree.View().Containers(); len(pods)+len(containers) > 0 {
		s.t.Errorf("there are %d pods and %d containers", len(pods), len(containers))
	}
	if left := s.node.Unpacked(); len(left) > 0 {
		s.t.Errorf("unpacked checkpoints are left: %v", left)
	}
	for _, left := range s.node.Empty() {
		s.t.Errorf("left on the node: %s", left)
	}
}

func TestARestoredPodIsReadyAndItsContainersHaveNotRun(t *testing.T) {
	s := newScene(t)
	made := s.must(s.captured()).(messages.RestoredPod)
	if len(made.Containers) != 2 || made.Containers["c"] == made.Containers["d"] || s.podState() != messages.PodReady {
		t.Fatalf("made %v, the pod is %s", made, s.podState())
	}
	for name, id := range made.Containers {
		c, err := s.tree.View().Container(id)
		if err != nil || c.State != messages.ContainerCreated || c.Config.GetMetadata().GetName() != name {
			t.Errorf("container %s is %v, %v", name, c, err)
		}
	}
	if n := len(s.node.Unpacked()); n != 2 {
		t.Errorf("%d checkpoints are kept for the starts", n)
	}
	s.must(messages.StartContainer{Pod: made.Pod, Container: made.Containers["c"]})
	s.until("the checkpoint of what runs is given back", func() bool { return len(s.node.Unpacked()) == 1 })
	s.must(messages.RemovePod{Pod: made.Pod})
	s.empty()
}

func TestARestoreThatIsCutOffLeavesNothingWhenItIsAnswered(t *testing.T) {
	for _, held := range []string{"Network.Attach", "Checkpoints.Unpack", "Runtime.Create", "Bundles.Write"} {
		for how, cut := range map[string]func(*scene){
			"the pod is stopped": func(s *scene) { s.begin(messages.StopPod{Pod: s.onlyPod()}) },
			"the pod is removed": func(s *scene) { s.begin(messages.RemovePod{Pod: s.onlyPod()}) },
			"time is over":       func(*scene) {},
		} {
			t.Run(held+"/"+how, func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				r := s.captured()
				before := s.gate.seen(held)
				s.gate.hold(held)
				r.Call = messages.Call{Deadline: time.Now().Add(200 * time.Millisecond)}
				if how != "time is over" {
					r.Call.Deadline = time.Now().Add(time.Minute)
				}
				c := s.begin(r)
				s.until("it is on its way", func() bool { return s.gate.seen(held) > before })
				cut(s)
				time.Sleep(200 * time.Millisecond) // its time is over, or the wish is in the mailbox
				s.gate.open()
				if err := <-c; err == nil {
					t.Fatal("it was answered as a success")
				}
				s.empty()
			})
		}
	}
}

func TestARestoreOfAPodThatIsThereChangesNothing(t *testing.T) {
	s := newScene(t)
	r := s.captured()
	s.pod = s.must(s.run()).(string)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.tree.Ask(ctx, r); messages.KindOf(err) != messages.Exists {
		t.Errorf("answered with %v", err)
	}
	// The actor of the pod that was captured may just be ending.
	if p, err := s.tree.View().Pod(s.pod); err != nil || p.State != messages.PodReady || len(s.tree.View().Containers()) > 0 {
		t.Errorf("the pod is %+v, %v", p, err)
	}
}

func TestARestoreWithAMissingImageLeavesNothing(t *testing.T) {
	s := newScene(t)
	r := s.captured()
	r.Containers[1].Image.Image = "registry.local/other:1"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.tree.Ask(ctx, r); messages.KindOf(err) != messages.NotFound {
		t.Errorf("answered with %v", err)
	}
	s.empty()
}

// onlyPod is the id of the pod that is not listed yet.
func (s *scene) onlyPod() string {
	for _, a := range s.tree.View().Tree() {
		if a.Kind == "sandbox" {
			return a.Path[len(a.Path)-64:]
		}
	}
	return ""
}

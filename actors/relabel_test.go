package actors_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Elsewhere a volume of a million files never gets its label: each request runs
// out of time, and the next begins anew.
func TestARelabellingSurvivesItsRequestAndARetryJoinsIt(t *testing.T) {
	s := newScene(t)
	s.pod = s.must(s.run()).(string)
	create := s.create()
	create.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: "/srv/data", SelinuxRelabel: true}}
	s.gate.hold("Volumes.Relabel")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.tree.Ask(ctx, create); messages.KindOf(err) != messages.Deadline {
		t.Fatalf("the first request: %v", err)
	}
	var during *messages.ContainerSnapshot
	s.until("it is seen how far it is", func() bool {
		_, all := s.tree.View().Everything()
		for _, c := range all[s.pod] {
			during = c
		}
		return during != nil && strings.Contains(during.Activity.Step, "1 files so far")
	})
	answered := s.begin(create)
	s.gate.open()
	s.answered("the retry", answered)
	id := s.must(create).(string)
	if id != during.ID {
		t.Errorf("the retry made %s beside %s", id, during.ID)
	}
	if n := s.gate.seen("Volumes.Relabel"); n != 1 {
		t.Errorf("%d relabellings", n)
	}
	s.must(messages.RemovePod{Pod: s.pod})
}

// An image that a container mounts stays, from the moment the container is asked for.
func TestAnImageThatIsMountedAsAVolumeIsHeld(t *testing.T) {
	s := newScene(t)
	const ref = "registry.local/app:1"
	s.pod = s.must(s.run()).(string)
	create := s.create()
	create.Config.Mounts = []*runtime.Mount{{ContainerPath: "/m", Image: &runtime.ImageSpec{Image: "registry.local/none:1"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := s.tree.Ask(ctx, create); messages.KindOf(err) != messages.ImageVolumeMountFailed {
		t.Errorf("an image that is not there: kind %v, %v", messages.KindOf(err), err)
	}
	create.Config.Mounts[0].Image.Image = ref
	create.Config.Metadata.Attempt++
	s.gate.hold("Volumes.Mount")
	answered := s.begin(create)
	s.until("the container is being made", func() bool { return s.gate.seen("Volumes.Mount") > 0 })
	if _, err := s.tree.Ask(ctx, messages.RemoveImage{Ref: ref}); messages.KindOf(err) != messages.Precondition {
		t.Errorf("removing it meanwhile: %v", err)
	}
	s.gate.open()
	s.answered("create", answered)
	s.must(messages.RemovePod{Pod: s.pod})
	s.must(messages.RemoveImage{Ref: ref})
}

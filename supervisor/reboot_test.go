package supervisor

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// reboot ends the tree and all that a node's restart ends, and starts another.
func (s *stage) reboot() {
	s.t.Helper()
	if err := s.tree.Shutdown(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	s.node.Reboot()
	var err error
	s.tree, err = Start(s.t.Context(), Config{
		Node: s.node.Backends(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Limits: DefaultLimits(), Settings: actors.DefaultSettings(), Boot: "the next",
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) isNotReady(pod string) bool {
	for _, p := range s.tree.View().Pods() {
		if p.ID == pod {
			return p.State == messages.PodNotReady
		}
	}
	return false
}

func TestAPodOnTheNodesNetworkIsNotReadyAfterAReboot(t *testing.T) {
	s := onStage(t, nil)
	pod := s.must(messages.RunPod{Handler: "h", Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "p", Namespace: "n"},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
			Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER,
		}}},
	}})
	s.reboot()
	eventually(t, "it is not ready", func() bool { return s.isNotReady(pod) })
}

func TestTheAddressesOfPodsThatARebootEndedAreFreeBeforeTheyAreStopped(t *testing.T) {
	s := onStage(t, nil)
	s.running()
	held := func() int {
		all, err := s.node.Backends().Network.Held(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if held() == 0 {
		t.Fatal("the pod has no address to begin with")
	}
	s.reboot()
	eventually(t, "its address is free", func() bool { return held() == 0 })
	eventually(t, "it is not ready", func() bool { return s.isNotReady(s.pod) })
	s.must(messages.StopPod{Pod: s.pod})
	s.must(messages.RemovePod{Pod: s.pod})
}

// The runtime's own init, which waits for the start, ends with 2 when systemd
// stops its scope at a reboot.
func TestAContainerThatIsEndedBeforeItsStartHasNoExitCode(t *testing.T) {
	s := onStage(t, nil)
	s.must(messages.PullImage{Ref: "registry.local/app:1"})
	s.pod = s.must(messages.RunPod{Handler: "h", Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "p", Namespace: "n"}}})
	s.cont = s.must(messages.CreateContainer{Pod: s.pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: "registry.local/app:1"},
	}})
	s.node.Kill(s.cont, 2, false)
	var c *messages.ContainerSnapshot
	eventually(t, "it has exited", func() bool {
		for _, one := range s.tree.View().Containers() {
			if one.ID == s.cont {
				c = one
			}
		}
		return c != nil && c.State == messages.ContainerExited
	})
	if c.ExitCode != -1 || c.Reason != "Unknown" {
		t.Errorf("it is shown with code %d, reason %q", c.ExitCode, c.Reason)
	}
	s.must(messages.RemovePod{Pod: s.pod})
}

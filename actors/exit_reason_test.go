package actors

import (
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAContainerThatItsSeccompProfileEndedSaysSo(t *testing.T) {
	confinedBy := func(kind runtime.SecurityProfile_ProfileType) *runtime.ContainerConfig {
		return &runtime.ContainerConfig{Linux: &runtime.LinuxContainerConfig{
			SecurityContext: &runtime.LinuxContainerSecurityContext{Seccomp: &runtime.SecurityProfile{ProfileType: kind}},
		}}
	}
	old := &runtime.ContainerConfig{Linux: &runtime.LinuxContainerConfig{
		//lint:ignore SA1019 deprecated, and still sent by older clients
		SecurityContext: &runtime.LinuxContainerSecurityContext{SeccompProfilePath: "localhost/p.json"},
	}}
	bySys := messages.ProcessState{Signal: 31, ExitCode: 159}
	for _, c := range []struct {
		config *runtime.ContainerConfig
		state  messages.ProcessState
		want   string
	}{
		{confinedBy(runtime.SecurityProfile_RuntimeDefault), bySys, "seccomp killed"},
		{confinedBy(runtime.SecurityProfile_Localhost), bySys, "seccomp killed"},
		{old, bySys, "seccomp killed"},
		{confinedBy(runtime.SecurityProfile_Unconfined), bySys, "Error"},
		{nil, bySys, "Error"},
		{confinedBy(runtime.SecurityProfile_Localhost), messages.ProcessState{ExitCode: 159}, "Error"}, // it said so itself
		{confinedBy(runtime.SecurityProfile_Localhost), messages.ProcessState{Signal: 31, ExitCode: 159, OOMKilled: true}, "OOMKilled"},
		{confinedBy(runtime.SecurityProfile_Localhost), messages.ProcessState{ExitUnknown: true}, "Unknown"},
	} {
		if reason, _ := exitReason(c.state, hasSeccompProfile(c.config)); reason != c.want {
			t.Errorf("%v, %+v: %q, want %q", c.config, c.state, reason, c.want)
		}
	}
}

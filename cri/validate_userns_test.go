package cri

import (
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func userns(p *runtime.PodSandboxConfig) *runtime.UserNamespace {
	return p.Linux.SecurityContext.NamespaceOptions.UsernsOptions
}

func mappedPod() *runtime.PodSandboxConfig {
	p := goodPod()
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{
		Mode: runtime.NamespaceMode_POD,
		Uids: []*runtime.IDMapping{{HostId: 65536, Length: 65536}}, Gids: []*runtime.IDMapping{{HostId: 65536, Length: 65536}},
	}
	return p
}

func TestAUserNamespaceThatCannotBeMadeIsRefused(t *testing.T) {
	options := func(p *runtime.PodSandboxConfig) *runtime.NamespaceOption {
		return p.Linux.SecurityContext.NamespaceOptions
	}
	if err := validateRunPod(&runtime.RunPodSandboxRequest{Config: mappedPod()}); err != nil {
		t.Error(err)
	}
	for field, spoil := range map[string]func(*runtime.PodSandboxConfig){
		"uids 0 mappings":        func(p *runtime.PodSandboxConfig) { userns(p).Uids = nil },
		"gids 2 mappings":        func(p *runtime.PodSandboxConfig) { userns(p).Gids = append(userns(p).Gids, userns(p).Gids...) },
		"uids[0].container_id 1": func(p *runtime.PodSandboxConfig) { userns(p).Uids[0].ContainerId = 1 },
		"gids[0].length 0":       func(p *runtime.PodSandboxConfig) { userns(p).Gids[0].Length = 0 },
		"uids[0] 65536 ids from": func(p *runtime.PodSandboxConfig) { userns(p).Uids[0].HostId = 1<<32 - 2 },
		"mode TARGET":            func(p *runtime.PodSandboxConfig) { userns(p).Mode = runtime.NamespaceMode_TARGET },
		"mappings with mode NODE": func(p *runtime.PodSandboxConfig) {
			userns(p).Mode = runtime.NamespaceMode_NODE
		},
		"node's PID namespace": func(p *runtime.PodSandboxConfig) { options(p).Pid = runtime.NamespaceMode_NODE },
		"node's IPC namespace": func(p *runtime.PodSandboxConfig) { options(p).Ipc = runtime.NamespaceMode_NODE },
	} {
		p := mappedPod()
		spoil(p)
		wantRefused(t, validateRunPod(&runtime.RunPodSandboxRequest{Config: p}), messages.Invalid, field)
	}
}

func TestAMountIsShiftedForUsersAndGroupsOrNeither(t *testing.T) {
	c := goodContainer()
	c.Mounts[0].UidMappings = []*runtime.IDMapping{{HostId: 65536, Length: 65536}}
	wantRefused(t, validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}), messages.Invalid, "mounts[0].uid_mappings, gid_mappings")
	c.Mounts[0].GidMappings = []*runtime.IDMapping{{HostId: 65536}}
	wantRefused(t, validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}), messages.Invalid, "mounts[0].gid_mappings[0].length")
	c.Mounts[0].GidMappings[0].Length = 65536
	if err := validateCreate(&runtime.CreateContainerRequest{PodSandboxId: "p", Config: c}); err != nil {
		t.Error(err)
	}
}

func TestAHandlerWithoutUserNamespacesRefusesThem(t *testing.T) {
	s := &Server{config: Config{Handlers: []Handler{{Name: "with", UserNamespaces: true}, {Name: "without"}}}}
	if err := s.checkUserNamespaces(mappedPod(), "with"); err != nil {
		t.Error(err)
	}
	if err := s.checkUserNamespaces(goodPod(), "without"); err != nil {
		t.Error(err)
	}
	wantRefused(t, s.checkUserNamespaces(mappedPod(), "without"), messages.Precondition, `"without"`)
}

package bundles

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespaces: the pod's by path, a PID namespace as asked for, and mounts of
// its own.
func (b *bundle) namespaces() error {
	pid, err := b.pidNamespace()
	if err != nil {
		return err
	}
	b.spec.Linux.Namespaces = append(b.podNamespaces(), pid...)
	return nil
}

// podNamespaces are those every process of the pod is in. One without a path
// is the node's. Host name and sysctls belong to whoever pinned them, and are
// not repeated in the spec.
func (b *bundle) podNamespaces() []specs.LinuxNamespace {
	paths := b.r.Namespaces
	spaces := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []specs.LinuxNamespace{
		{Type: specs.UserNamespace, Path: paths.User},
		{Type: specs.NetworkNamespace, Path: paths.Network},
		{Type: specs.IPCNamespace, Path: paths.IPC},
		{Type: specs.UTSNamespace, Path: paths.UTS},
	} {
		if n.Path != "" {
			spaces = append(spaces, n)
		}
	}
	// On v1 a cgroup namespace would hide nothing: the hierarchies are
	// mounted one by one, each from the container's own cgroup.
	if b.node.unified && !b.sc.GetPrivileged() {
		spaces = append(spaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return spaces
}

func (b *bundle) pidNamespace() ([]specs.LinuxNamespace, error) {
	options := b.sc.GetNamespaceOptions()
	if options == nil {
		options = b.r.PodConfig.GetLinux().GetSecurityContext().GetNamespaceOptions()
	}
	join := func(path, missing string) ([]specs.LinuxNamespace, error) {
		if path == "" {
			return nil, messages.Errorf(messages.Precondition, "namespace_options.pid is %s, but %s", options.GetPid(), missing)
		}
		return []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: path}}, nil
	}
	switch options.GetPid() {
	case runtime.NamespaceMode_POD:
		return join(b.r.Namespaces.PID, "the pod has no shared PID namespace: ask for it when the sandbox is started")
	case runtime.NamespaceMode_CONTAINER:
		return []specs.LinuxNamespace{{Type: specs.PIDNamespace}}, nil
	case runtime.NamespaceMode_NODE:
		return nil, nil
	case runtime.NamespaceMode_TARGET:
		return join(b.r.TargetPIDNS, "the target container "+options.GetTargetId()+" is not running")
	}
	return nil, messages.Errorf(messages.Invalid, "namespace_options.pid %d is not known", options.GetPid())
}

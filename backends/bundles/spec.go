package bundles

import (
	"context"
	"fmt"
	"log/slog"
	"maps"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// specVersion is what is told to the runtime; nothing newer is used. crun of
// Debian 12 refuses a version it does not know.
const specVersion = "1.0.2"

// bundle is a bundle in the making.
type bundle struct {
	backends.Bundle
	*Backend
	ctx  context.Context
	r    backends.BundleRequest
	sc   *runtime.LinuxContainerSecurityContext // never nil for a container
	own  *messages.UserNamespace                // the pod's user namespace; nil: the node's
	spec *specs.Spec
	log  *slog.Logger
}

// part fills in one concern of the spec.
type part struct {
	name string
	fill func(*bundle) error
}

// containerParts make a container's spec, in this order: seccomp rules depend
// on the capabilities, directories in the root file system on the mounts.
var containerParts = []part{
	{"security context", (*bundle).checkPrivilege},
	{"command", (*bundle).arguments},
	{"environment", (*bundle).environment},
	{"user", (*bundle).user},
	{"capabilities", (*bundle).capabilities},
	{"namespaces", (*bundle).namespaces},
	{"mounts", (*bundle).mounts},
	{"user namespace", (*bundle).userNamespace},
	{"devices", (*bundle).devices},
	{"CDI devices", (*bundle).cdiDevices},
	{"resources", (*bundle).resources},
	{"exec affinity", (*bundle).execAffinity},
	{"limits", (*bundle).limits},
	{"seccomp", (*bundle).seccomp},
	{"apparmor", (*bundle).apparmor},
	{"selinux", (*bundle).selinux},
	{"paths", (*bundle).paths},
	{"directories", (*bundle).directories},
	{"log path", (*bundle).logPath},
	{"stop signal", (*bundle).stopSignal},
	{"hooks", (*bundle).ociHooks}, // they are chosen by all the others
	{"plugins", (*bundle).plugins},
}

// pauseParts make the spec of a pod's pause process.
var pauseParts = []part{
	{"pause", (*bundle).pause},
	{"seccomp", (*bundle).seccomp},
	{"apparmor", (*bundle).apparmor},
	{"selinux", (*bundle).selinux},
	{"paths", (*bundle).paths},
}

func (b *Backend) build(ctx context.Context, r backends.BundleRequest) (*bundle, error) {
	made := &bundle{
		Backend: b, ctx: ctx, r: r,
		sc:  r.Config.GetLinux().GetSecurityContext(),
		log: b.log.With("pod", r.Pod, "container", r.Container, "step", "bundle"),
		spec: &specs.Spec{
			Version:     specVersion,
			Root:        &specs.Root{Path: r.Rootfs},
			Process:     &specs.Process{Capabilities: &specs.LinuxCapabilities{}},
			Linux:       &specs.Linux{Resources: &specs.LinuxResources{}},
			Annotations: b.defaults.handlers[r.Handler].annotations(r),
		},
	}
	if made.sc == nil {
		made.sc = &runtime.LinuxContainerSecurityContext{}
	}
	made.own = messages.UserNamespaceOf(r.PodConfig.GetLinux().GetSecurityContext().GetNamespaceOptions(), r.Namespaces.User)
	parts := containerParts
	if r.Config == nil {
		parts = pauseParts
	}
	var err error
	if made.spec.Linux.CgroupsPath, err = b.cgroupsPath(r); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := p.fill(made); err != nil {
			return nil, fmt.Errorf("container %s: %s: %w", displayName(r), p.name, err)
		}
	}
	return made, nil
}

func displayName(r backends.BundleRequest) string {
	if name := r.Config.GetMetadata().GetName(); name != "" {
		return name
	}
	return fmt.Sprintf("%.12s", r.Container)
}

// checkPrivilege holds the sandbox to what it was started as (cri-api,
// LinuxSandboxSecurityContext.privileged: "this MUST be true").
func (b *bundle) checkPrivilege() error {
	if b.sc.GetPrivileged() && !b.r.PodConfig.GetLinux().GetSecurityContext().GetPrivileged() {
		return messages.Errorf(messages.Invalid,
			"security_context.privileged is set, but the pod sandbox was not started as privileged: set privileged in its security context too")
	}
	if b.r.Rootfs == "" {
		return messages.Errorf(messages.Internal, "no root file system was mounted for it")
	}
	if err := b.checkUserNamespace(); err != nil {
		return err
	}
	b.spec.Root.Readonly = b.sc.GetReadonlyRootfs()
	b.spec.Process.NoNewPrivileges = b.sc.GetNoNewPrivs()
	return nil
}

// annotations name the container to people and to tools, beside those that are
// passed on.
func (h handler) annotations(r backends.BundleRequest) map[string]string {
	pod := r.PodConfig.GetMetadata()
	a := h.passedAnnotations(r)
	maps.Copy(a, map[string]string{
		"run.troupe.container-type": "container",
		"run.troupe.pod.id":         r.Pod,
		"run.troupe.pod.name":       pod.GetName(),
		"run.troupe.pod.namespace":  pod.GetNamespace(),
		"run.troupe.pod.uid":        pod.GetUid(),
		"run.troupe.container.id":   r.Container,
		"run.troupe.container.name": r.Config.GetMetadata().GetName(),
	})
	if r.Config == nil {
		a["run.troupe.container-type"] = "pod"
		delete(a, "run.troupe.container.name")
	}
	return a
}

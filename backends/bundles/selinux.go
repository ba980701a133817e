package bundles

import (
	"context"
	"errors"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels gives the SELinux labels of a container, or of the pod itself.
func (b *Backend) Labels(_ context.Context, r backends.LabelRequest) (messages.Labels, error) {
	none := messages.Labels{}
	if !b.labels() {
		return none, nil
	}
	if err := backends.CheckID("pod", r.Pod); err != nil {
		return none, err
	}
	options := b.labelOptions(r)
	if options.level == "" && !options.disabled {
		var err error
		if options.level, err = b.levels.take(r.Pod); err != nil {
			return none, err
		}
	}
	process, mount, err := label.InitLabels(options.list())
	if err != nil {
		return none, messages.Errorf(messages.Invalid, "selinux_options: %w", err)
	}
	// The library keeps a list of its own of levels in use, which a daemon
	// that was started again would not have; ours is on the disk.
	selinux.ReleaseLabel(process)
	if process != "" {
		if err := selinux.SecurityCheckContext(process); err != nil {
			return none, messages.Errorf(messages.Invalid, "selinux_options: the policy of this node has no context %s: %w", process, err)
		}
	}
	if options.noProcess {
		process = ""
	}
	return messages.Labels{Process: process, Mount: mount}, nil
}

// labels says whether anything is labelled on this node.
func (b *Backend) labels() bool { return b.node.selinux && !b.config.DisableSELinux }

// Release gives the pod's SELinux level back.
func (b *Backend) Release(_ context.Context, pod string) error {
	if err := backends.CheckID("pod", pod); err != nil {
		return err
	}
	return b.levels.release(pod)
}

// labelOptions are what a label is made from.
type labelOptions struct {
	user, role, kind, level string
	disabled                bool // no separation: the label of privileged containers
	noProcess               bool // the process is not confined, its files are labelled
}

// labelOptions decides. The container's options come before its pod's, field by
// field, so that all containers of a pod have its level, and share its volumes,
// unless one asks for another. Who can see or signal the node's processes, or
// is privileged, is not separated (as in CRI-O; the CRI says so of privileged).
func (b *Backend) labelOptions(r backends.LabelRequest) labelOptions {
	pod := r.PodConfig.GetLinux().GetSecurityContext()
	own := r.Config.GetLinux().GetSecurityContext()
	node := runtime.NamespaceMode_NODE
	privileged := pod.GetPrivileged() && r.Config == nil || own.GetPrivileged()
	if spaces := pod.GetNamespaceOptions(); privileged || spaces.GetPid() == node || spaces.GetIpc() == node {
		return labelOptions{disabled: true}
	}
	first := func(field func(*runtime.SELinuxOption) string) string {
		if v := field(own.GetSelinuxOptions()); v != "" {
			return v
		}
		return field(pod.GetSelinuxOptions())
	}
	return labelOptions{
		user: first((*runtime.SELinuxOption).GetUser), role: first((*runtime.SELinuxOption).GetRole),
		kind: first((*runtime.SELinuxOption).GetType), level: first((*runtime.SELinuxOption).GetLevel),
		noProcess: pod.GetNamespaceOptions().GetNetwork() == node && b.config.HostnetworkDisableSELinux,
	}
}

// list is the form of the label library.
func (o labelOptions) list() []string {
	if o.disabled {
		return []string{"disable"}
	}
	var list []string
	for _, part := range []struct{ key, value string }{{"user", o.user}, {"role", o.role}, {"type", o.kind}, {"level", o.level}} {
		if part.value != "" {
			list = append(list, part.key+":"+part.value)
		}
	}
	return list
}

// selinux labels the process and what is mounted for it.
func (b *bundle) selinux() error {
	if b.r.Labels == (messages.Labels{}) {
		return nil
	}
	if !b.node.selinux {
		return messages.Errorf(messages.Precondition, "SELinux is off on this node, but the container was to have the label %q", b.r.Labels.Process)
	}
	b.spec.Process.SelinuxLabel = b.r.Labels.Process
	b.spec.Linux.MountLabel = b.r.Labels.Mount
	b.relabel(b.r.Labels.Mount)
	return nil
}

// dropLevel is Drop for what Held says of levels.
func (b *Backend) dropLevel(ctx context.Context, h backends.Held) error {
	return errors.Join(ctx.Err(), b.Release(ctx, h.Pod))
}

package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod starts by these steps, top to bottom. It stops by their undo, bottom
// to top: those marked onStop by StopPodSandbox, the rest by RemovePodSandbox.
// Each undo is safe when its do never ran, ran half, or was undone before.
//
// A pod has no process of its own, except the pause that holds a shared PID
// namespace; its other namespaces are pinned by bind mounts.
var podSteps = withPoints("sandbox", []step[podPlan]{
	{name: "record", do: nothing[podPlan], undo: removePodRecord, on: onRemove},
	{name: "cgroup", do: makeCgroup, undo: removeCgroup, on: onRemove},
	{name: "files", do: makeFiles, undo: removeFiles, on: onRemove},
	{name: "namespaces", do: pinNamespaces, undo: unpinNamespaces, on: onStop, gate: true},
	// Undone also when it failed: a plugin may have taken an address and then failed.
	// A plugin that hangs must not hold the places of those who need none.
	{name: "network", do: attachNetwork, undo: detachNetwork, on: onStop, gate: true, skip: hasHostNetwork, limit: 4 * time.Minute, lane: LaneNet},
	{name: "pause", do: startPause, undo: stopPause, on: onStop, gate: true, skip: hasNoPause},
	// Asked last and told first: they see a whole pod.
	{name: "plugins", do: runPlugins, undo: stopPlugins, on: onStop, idle: noPlugins},
	// Only undone, and only by a pod one of whose containers lost its record:
	// see recover.
	{name: "strays", do: nothing[podPlan], undo: dropStrays, on: onStop, gate: true, skip: always[podPlan]},
})

// podPlan is filled as the steps go: request → plan → record → snapshot.
type podPlan struct {
	ID         string                    `json:"id"`
	Config     *runtime.PodSandboxConfig `json:"-"`
	Handler    string                    `json:"handler"`
	CreatedAt  time.Time                 `json:"createdAt"`
	Namespaces messages.Namespaces       `json:"namespaces"`
	IPs        []string                  `json:"ips,omitempty"`
	Labels     messages.Labels           `json:"labels,omitzero"`
	Files      backends.PodFiles         `json:"files"`
	Cgroup     string                    `json:"cgroup,omitempty"`
	Boot       string                    `json:"boot,omitempty"` // of the node, in which all of this was made
	ShmSize    int64                     `json:"shmSize,omitempty"`
	PausePid   int                       `json:"pausePid,omitempty"`
	Restore    string                    `json:"restore,omitempty"`  // the checkpoint it is being made of, until it is ready
	Children   []string                  `json:"children,omitempty"` // with a record, when one without was found
	Told       bool                      `json:"told,omitempty"`     // to the node's plugins
}

// past says whether the pod was made before the node was restarted: whatever it
// had in the kernel has gone, and its address may be given to others.
func (p *podPlan) past(env *Env) bool { return p.Boot != "" && env.Boot != "" && p.Boot != env.Boot }

// nothing: the journal writes the record itself before a list's first step, so
// that everything the node will hold has an owner that survives the daemon.
func nothing[P any](context.Context, *backends.Node, *P) error { return nil }

func removePodRecord(ctx context.Context, n *backends.Node, p *podPlan) error {
	if err := n.Journal.Remove(ctx, backends.Key{Pod: p.ID}); err != nil {
		return err
	}
	n.Plugins.RemovePod(ctx, p.forPlugins())
	return nil
}

func makeCgroup(ctx context.Context, n *backends.Node, p *podPlan) (err error) {
	p.Cgroup, err = n.Cgroups.Make(ctx, p.ID, p.Config.GetLinux().GetCgroupParent())
	return err
}

func removeCgroup(ctx context.Context, n *backends.Node, p *podPlan) error {
	return n.Cgroups.Remove(ctx, p.ID)
}

func makeFiles(ctx context.Context, n *backends.Node, p *podPlan) (err error) {
	if p.Labels, err = n.Bundles.Labels(ctx, backends.LabelRequest{Pod: p.ID, PodConfig: p.Config}); err != nil {
		return err
	}
	p.Files, err = n.Files.Make(ctx, backends.FilesRequest{
		Pod: p.ID, Hostname: p.Config.GetHostname(), DNS: p.Config.GetDnsConfig(),
		HostIPC: p.options().GetIpc() == runtime.NamespaceMode_NODE, ShmSize: p.ShmSize, User: p.user(), MountLabel: p.Labels.Mount,
	})
	return err
}

func removeFiles(ctx context.Context, n *backends.Node, p *podPlan) error {
	return errors.Join(n.Files.Remove(ctx, p.ID), n.Bundles.Remove(ctx, p.ID, p.ID), n.Bundles.Release(ctx, p.ID))
}

func pinNamespaces(ctx context.Context, n *backends.Node, p *podPlan) (err error) {
	own := !hasHostNetwork(p)
	p.Namespaces, err = n.Namespaces.Pin(ctx, backends.NamespaceRequest{
		Pod: p.ID, Network: own, UTS: own, // a host-network pod has the node's name
		IPC:      p.options().GetIpc() != runtime.NamespaceMode_NODE,
		Hostname: p.Config.GetHostname(), Sysctls: p.Config.GetLinux().GetSysctls(), User: p.user(),
	})
	return err
}

func unpinNamespaces(ctx context.Context, n *backends.Node, p *podPlan) error {
	return n.Namespaces.Unpin(ctx, p.ID)
}

func attachNetwork(ctx context.Context, n *backends.Node, p *podPlan) error {
	r, err := n.Network.Attach(ctx, p.network())
	p.IPs = r.IPs
	return err
}

func detachNetwork(ctx context.Context, n *backends.Node, p *podPlan) error {
	return n.Network.Detach(ctx, p.network())
}

// startPause starts the process that is pid 1 of the namespace the pod's
// containers share.
func startPause(ctx context.Context, n *backends.Node, p *podPlan) error {
	b, err := n.Bundles.Write(ctx, backends.BundleRequest{
		Pod: p.ID, Container: p.ID, PodConfig: p.Config, Namespaces: p.Namespaces, Labels: p.Labels,
		Files: p.Files, CgroupParent: p.Cgroup, Handler: p.Handler,
	})
	if err != nil {
		return err
	}
	if _, err := n.Runtime.Create(ctx, backends.ProcessRequest{
		Pod: p.ID, Container: p.ID, Bundle: b.Dir, Pause: true, Handler: p.Handler,
	}); err != nil {
		return err
	}
	st, err := n.Runtime.Start(ctx, p.ID, p.ID)
	p.PausePid = st.Pid
	p.Namespaces.PID = pidNamespace(st.Pid)
	return err
}

// stopPause leaves the bundle to removeFiles: a disk that has become read-only
// must not keep a stopping pod from giving back its network.
func stopPause(ctx context.Context, n *backends.Node, p *podPlan) error {
	return n.Runtime.Delete(ctx, p.ID, p.ID)
}

// dropStrays ends what containers without a record have in this pod, before
// the pod's network and namespaces go. What a container keeps, a process that
// does not die for one, keeps all that is beneath it.
func dropStrays(ctx context.Context, n *backends.Node, p *podPlan) error {
	var errs []error
	stuck := map[string]bool{}
	for _, holder := range []backends.Holder{n.Runtime, n.Checkpoints, n.Bundles, n.Volumes, n.Rootfs} {
		held, err := holder.Held(ctx)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, h := range held {
			if h.Pod != p.ID || h.Container == "" || h.Container == p.ID || stuck[h.Container] || slices.Contains(p.Children, h.Container) {
				continue
			}
			if err := holder.Drop(ctx, h); err != nil {
				stuck[h.Container] = true
				errs = append(errs, fmt.Errorf("drop %s %s: %w", h.Kind, h.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func always[P any](*P) bool { return true }

func (p *podPlan) options() *runtime.NamespaceOption {
	return p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// user is the pod's user namespace, or nil.
func (p *podPlan) user() *messages.UserNamespace {
	return messages.UserNamespaceOf(p.options(), p.Namespaces.User)
}

func hasHostNetwork(p *podPlan) bool {
	return p.options().GetNetwork() == runtime.NamespaceMode_NODE
}

// hasNoPause: only a PID namespace that containers share needs a process.
func hasNoPause(p *podPlan) bool {
	return p.options().GetPid() != runtime.NamespaceMode_POD
}

func (p *podPlan) network() backends.NetworkRequest {
	m := p.Config.GetMetadata()
	return backends.NetworkRequest{
		Pod: p.ID, Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid(),
		NetNS: p.Namespaces.Network, Cgroup: p.Cgroup, PortMappings: p.Config.GetPortMappings(),
		DNS: p.Config.GetDnsConfig(), Annotations: p.Config.GetAnnotations(),
	}
}

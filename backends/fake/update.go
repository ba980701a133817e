package fake

import (
	"context"
	"encoding/json"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// limits is the form in which this node keeps resources: without what is not
// the cgroup's.
func limits(r *runtime.LinuxContainerResources) backends.Resources {
	kept := &runtime.LinuxContainerResources{}
	if r != nil {
		kept = proto.Clone(r).(*runtime.LinuxContainerResources)
	}
	kept.OomScoreAdj = 0
	data, err := json.Marshal(kept)
	if err != nil {
		panic(err)
	}
	return data
}

// Resources refuses what needs cgroup v2: this node has v1.
func (b bundlesBackend) Resources(ctx context.Context, pod, container string, r *runtime.LinuxContainerResources) (backends.Resources, error) {
	c := Call{Backend: "Bundles", Method: "Resources", Pod: pod, Container: container}
	return ask(ctx, b.n, c, func() (backends.Resources, error) {
		if len(r.GetUnified()) > 0 {
			return nil, messages.Errorf(messages.Invalid, "linux.resources.unified: this node has cgroup v1")
		}
		return limits(r), nil
	})
}

func (b bundlesBackend) SetResources(ctx context.Context, pod, container string, r backends.Resources) error {
	n, k := b.n, backends.Key{Pod: pod, Container: container}
	return n.call(ctx, Call{Backend: "Bundles", Method: "SetResources", Pod: pod, Container: container}, func() error {
		if n.bundles[k] == nil || n.bundles[k].torn {
			return messages.Errorf(messages.Precondition, "the bundle of %.12s is gone", container)
		}
		n.bundles[k].resources = string(r)
		return nil
	})
}

func (b runtimeBackend) Update(ctx context.Context, pod, container string, r backends.Resources) error {
	return b.withMonitor(ctx, runtimeCall("Update", pod, container), func() error {
		p := b.n.find(pod, container)
		switch {
		case p == nil:
			return messages.Errorf(messages.NotFound, "container %.12s has no process", container)
		case !p.alive():
			return messages.Errorf(messages.Precondition, "container %.12s is %s: there is nothing to limit", container, p.Status)
		}
		p.limits = string(r)
		return nil
	})
}

// Limited says whether the resources of a living container are these, in force
// and in its bundle; true when it does not live. It may be asked often: what
// resources look like is kept by their message, which nobody changes.
func (n *Node) Limited(pod, container string, r *runtime.LinuxContainerResources) (is bool) {
	n.change(func() {
		p := n.find(pod, container)
		if p == nil || !p.alive() {
			is = true
			return
		}
		want, known := n.forms[r]
		if !known {
			want = string(limits(r))
			n.forms[r] = want
		}
		b := n.bundles[p.key()]
		is = p.limits == want && b != nil && b.resources == want
	})
	return is
}

// Update limits only a cgroup of ours.
func (b cgroupsBackend) Update(ctx context.Context, pod, parent string, r *runtime.LinuxContainerResources) error {
	n := b.n
	return n.call(ctx, Call{Backend: "Cgroups", Method: "Update", Pod: pod}, func() error {
		if own := n.cgroups[pod]; own == "" || own != parent {
			return nil
		}
		n.podLimits[pod] = string(limits(r))
		return nil
	})
}

package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A container is created by these steps, top to bottom, and removed by their
// undo, bottom to top. Starting it and its exit are in container.go.
var containerSteps = withPoints("container", []step[containerPlan]{
	{name: "record", do: nothing[containerPlan], undo: removeContainerRecord, on: onRemove},
	{name: "rootfs", do: mountRootfs, undo: unmountRootfs, on: onRemove, gate: true},
	{name: "checkpoint", do: unpackCheckpoint, undo: forgetCheckpoint, on: onRemove, skip: beginsAnew, limit: restoreLimit},
	{name: "volumes", do: mountVolumes, undo: unmountVolumes, on: onRemove, skip: hasNoVolumes},
	// It looks at the sources of mounts: a dead NFS server must not hold the
	// places that others start by. Writing is little work.
	{name: "bundle", do: writeBundle, undo: removeBundle, on: onRemove, lane: LaneLook},
	// A label stays: there is nothing to undo. It outlives the request that
	// began it by hours if it must; a retry joins it (field.md: pods with
	// volumes of a million files never started elsewhere).
	{name: "relabel", do: relabelVolumes, undo: nothing[containerPlan], on: onRemove, skip: hasNothingToRelabel, limit: 2 * time.Hour, lane: LaneWalk},
	{name: stepProcess, do: createProcess, undo: deleteProcess, on: onRemove, gate: true},
})

// stepProcess is the step whose undo ends the process.
const stepProcess = "process"

// containerPlan is filled as the steps go.
type containerPlan struct {
	ID        string                   `json:"id"`
	Pod       string                   `json:"pod"`
	Config    *runtime.ContainerConfig `json:"-"`
	CreatedAt time.Time                `json:"createdAt"`
	Image     messages.Image           `json:"image"`
	Labels    messages.Labels          `json:"labels,omitzero"`
	Rootfs    string                   `json:"rootfs,omitempty"`
	Volumes   []backends.ImageVolume   `json:"volumes,omitempty"` // in the order of the mounts that name an image
	Mounted   backends.VolumePaths     `json:"mounted"`
	Bundle    backends.Bundle          `json:"bundle"`
	Told      bool                     `json:"told,omitempty"`    // to the node's plugins
	Restore   string                   `json:"restore,omitempty"` // the pod's checkpoint that it is made of
	Images    string                   `json:"images,omitempty"`  // CRIU's, of that checkpoint

	pod      podPlan     // as it was when the container was created; not journalled
	progress func(int64) // of its relabelling; not journalled
}

func removeContainerRecord(ctx context.Context, n *backends.Node, p *containerPlan) error {
	if err := n.Journal.Remove(ctx, backends.Key{Pod: p.Pod, Container: p.ID}); err != nil {
		return err
	}
	n.Plugins.Remove(ctx, p.forPlugins(messages.ContainerRemoving, messages.ProcessState{}))
	return nil
}

// mayUse asks the policy again for each container: the image may have been
// pulled for a namespace whose policy is another.
func (p *containerPlan) mayUse(ctx context.Context, n *backends.Node, image *runtime.ImageSpec, id string) error {
	name := image.GetUserSpecifiedImage()
	if name == "" {
		name = image.GetImage()
	}
	return n.Images.Allowed(ctx, backends.ImageUse{ImageID: id, Name: name, Namespace: p.pod.Config.GetMetadata().GetNamespace()})
}

func mountRootfs(ctx context.Context, n *backends.Node, p *containerPlan) (err error) {
	if err := p.mayUse(ctx, n, p.Config.GetImage(), p.Image.ID); err != nil {
		return err
	}
	p.Labels, err = n.Bundles.Labels(ctx, backends.LabelRequest{Pod: p.Pod, PodConfig: p.pod.Config, Config: p.Config})
	if err != nil {
		return err
	}
	p.Rootfs, err = n.Rootfs.Mount(ctx, backends.RootfsRequest{
		Pod: p.Pod, Container: p.ID, ImageID: p.Image.ID, User: p.pod.user(), MountLabel: p.Labels.Mount,
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", p.Config.GetImage().GetImage(), err)
	}
	return nil
}

func unmountRootfs(ctx context.Context, n *backends.Node, p *containerPlan) error {
	return n.Rootfs.Unmount(ctx, p.Pod, p.ID)
}

func writeBundle(ctx context.Context, n *backends.Node, p *containerPlan) (err error) {
	r := backends.BundleRequest{
		Pod: p.Pod, Container: p.ID, PodConfig: p.pod.Config, Config: p.Config, Image: p.Image.Config,
		Rootfs: p.Rootfs, Labels: p.Labels, Namespaces: p.pod.Namespaces, Files: p.pod.Files, Volumes: p.Mounted,
		CgroupParent: p.pod.Cgroup, Handler: p.pod.Handler,
	}
	if o := p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(); o.GetPid() == runtime.NamespaceMode_TARGET {
		if r.TargetPIDNS, err = targetPIDNamespace(ctx, n, p.Pod, o.GetTargetId()); err != nil {
			return err
		}
	}
	p.Told = true // also when it is refused: some plugins may have accepted it
	p.Bundle, err = n.Bundles.Write(ctx, r)
	return err
}

// targetPIDNamespace is the PID namespace of another container of the pod.
func targetPIDNamespace(ctx context.Context, n *backends.Node, pod, target string) (string, error) {
	st, err := n.Runtime.State(ctx, pod, target)
	if err != nil {
		return "", err
	}
	if st.Status != messages.ProcessRunning {
		return "", messages.Errorf(messages.Precondition, "target container %s does not run", target)
	}
	return pidNamespace(st.Pid), nil
}

func pidNamespace(pid int) string { return fmt.Sprintf("/proc/%d/ns/pid", pid) }

func removeBundle(ctx context.Context, n *backends.Node, p *containerPlan) error {
	return n.Bundles.Remove(ctx, p.Pod, p.ID)
}

func createProcess(ctx context.Context, n *backends.Node, p *containerPlan) error {
	st, err := n.Runtime.Create(ctx, backends.ProcessRequest{
		Pod: p.Pod, Container: p.ID, Bundle: p.Bundle.Dir, LogPath: p.Bundle.LogPath,
		Stdin: p.Config.GetStdin(), StdinOnce: p.Config.GetStdinOnce(), TTY: p.Config.GetTty(), Handler: p.pod.Handler, Images: p.Images,
	})
	if err == nil {
		n.Plugins.Created(ctx, p.forPlugins(messages.ContainerCreated, st))
	}
	return err
}

func deleteProcess(ctx context.Context, n *backends.Node, p *containerPlan) error {
	return n.Runtime.Delete(ctx, p.Pod, p.ID)
}

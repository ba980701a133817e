package bundles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources gives the limits that an update can change: those that CRI names.
// Devices and the number of processes are the node's to say, at creation.
func (b *Backend) Resources(ctx context.Context, pod, container string, r *runtime.LinuxContainerResources) (backends.Resources, error) {
	if err := checkIDs(pod, container); err != nil {
		return nil, err
	}
	made := &bundle{
		Backend: b, ctx: ctx,
		r:    backends.BundleRequest{Pod: pod, Container: container, Config: &runtime.ContainerConfig{Linux: &runtime.LinuxContainerConfig{Resources: r}}},
		spec: &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}},
		log:  b.log.With("pod", pod, "container", container, "step", "update"),
	}
	if err := made.resources(); err != nil {
		return nil, fmt.Errorf("container %.12s: resources: %w", container, err)
	}
	return json.Marshal(changeable(*made.spec.Linux.Resources))
}

func changeable(r specs.LinuxResources) specs.LinuxResources {
	return specs.LinuxResources{CPU: r.CPU, Memory: r.Memory, HugepageLimits: r.HugepageLimits, Unified: r.Unified}
}

// SetResources rewrites config.json, so that whoever reads it later (a monitor
// that comes after this one) finds what is in force.
func (b *Backend) SetResources(ctx context.Context, pod, container string, r backends.Resources) error {
	if err := checkIDs(pod, container); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("updating the bundle of %.12s: %w", container, err)
	}
	var next specs.LinuxResources
	if err := json.Unmarshal(r, &next); err != nil {
		return messages.Errorf(messages.Internal, "updating the bundle of %.12s: decode the resources: %w", container, err)
	}
	dir := b.dir(pod, container)
	data, err := os.ReadFile(filepath.Join(dir, specName))
	if errors.Is(err, fs.ErrNotExist) {
		return messages.Errorf(messages.Precondition, "updating the bundle of %.12s: it is gone: %w", container, err)
	}
	if err != nil {
		return fmt.Errorf("updating the bundle of %.12s: %w", container, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("updating the bundle of %.12s: %s: %w", container, specName, err)
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	kept := spec.Linux.Resources
	kept.CPU, kept.Memory, kept.HugepageLimits, kept.Unified = next.CPU, next.Memory, next.HugepageLimits, next.Unified
	if err := writeSpec(dir, &spec); err != nil {
		return fmt.Errorf("updating the bundle of %.12s: %w", container, err)
	}
	return nil
}

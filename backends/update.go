package backends

import (
	"context"
	"encoding/json"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources are limits in the form of the OCI runtime spec (linux.resources of
// a config.json): what Bundles makes of a request, for Runtime to apply. They
// are complete: a limit that is not in them is not there.
type Resources = json.RawMessage

// BundleUpdater is the part of Bundles that changes a bundle's resources.
type BundleUpdater interface {
	// Resources translates what a container is to have and checks that this
	// node can give it, as Write does; kind Invalid when it cannot. Nothing is
	// changed.
	Resources(ctx context.Context, pod, container string, r *runtime.LinuxContainerResources) (Resources, error)
	// SetResources writes them to the bundle's config.json, in the place of
	// those that were there.
	SetResources(ctx context.Context, pod, container string, r Resources) error
}

// Updater is the part of Runtime that changes a container's resources.
type Updater interface {
	// Update puts the resources in force, all or none: after an error the
	// cgroup has the values it had before. What r does not limit gets back what
	// it had before the first Update, so that an update can be taken back by
	// another. A container that has exited is an error of kind Precondition;
	// values that the kernel refuses are Invalid or, when they are refused
	// because of what the container uses now, Precondition.
	Update(ctx context.Context, pod, container string, r Resources) error
}

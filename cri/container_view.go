package cri

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listContainers gives the containers that match all of the filter. Ids may be
// prefixes, and one that nobody has matches nothing; labels match exactly.
func listContainers(view messages.View, filter *runtime.ContainerFilter) []*runtime.Container {
	images := imagesByID(view)
	var items []*runtime.Container
	for _, c := range view.Containers() {
		if matchesContainer(c, filter) {
			items = append(items, listedContainer(c, images[c.ImageID]))
		}
	}
	return items
}

func matchesContainer(c *messages.ContainerSnapshot, filter *runtime.ContainerFilter) bool {
	return strings.HasPrefix(c.ID, filter.GetId()) &&
		strings.HasPrefix(c.Pod, filter.GetPodSandboxId()) &&
		(filter.GetState() == nil || filter.GetState().GetState() == c.CRIState()) &&
		hasLabels(c.Config.GetLabels(), filter.GetLabelSelector())
}

// imagesByID spares a list a search per container.
func imagesByID(view messages.View) map[string]messages.Image {
	images := map[string]messages.Image{}
	for _, image := range view.Images() {
		images[image.ID] = image
	}
	return images
}

func listedContainer(c *messages.ContainerSnapshot, image messages.Image) *runtime.Container {
	return &runtime.Container{
		Id:           c.ID,
		PodSandboxId: c.Pod,
		Metadata:     c.Config.GetMetadata(),
		Image:        c.Config.GetImage(),
		ImageRef:     digestRef(c, image),
		ImageId:      c.ImageID,
		State:        c.CRIState(),
		CreatedAt:    nanos(c.CreatedAt),
		Labels:       c.Config.GetLabels(),
		Annotations:  c.Config.GetAnnotations(),
	}
}

// digestRef is the "digested reference to the image in use" (cri-api,
// ContainerStatus.image_ref). An image that has none was never in a registry,
// or has been removed: then what it was found by must do.
func digestRef(c *messages.ContainerSnapshot, image messages.Image) string {
	switch {
	case strings.Contains(c.ImageRef, "@"):
		return c.ImageRef
	case len(image.RepoDigests) > 0:
		return image.RepoDigests[0]
	case c.ImageRef != "":
		return c.ImageRef
	}
	return c.ImageID
}

// containerStatuses are a pod's, the newest first: of several attempts of one
// container a kubelet with EventedPLEG takes the first it finds, and would
// take an attempt that has ended for the one that runs.
func containerStatuses(view messages.View, containers []*messages.ContainerSnapshot) []*runtime.ContainerStatus {
	var statuses []*runtime.ContainerStatus
	for _, c := range slices.Backward(containers) {
		image, _ := view.Image(c.ImageID)
		statuses = append(statuses, containerStatus(c, image))
	}
	return statuses
}

func containerStatus(c *messages.ContainerSnapshot, image messages.Image) *runtime.ContainerStatus {
	status := &runtime.ContainerStatus{
		Id:          c.ID,
		Metadata:    c.Config.GetMetadata(),
		State:       c.CRIState(),
		CreatedAt:   nanos(c.CreatedAt),
		StartedAt:   nanos(c.StartedAt),
		FinishedAt:  nanos(c.FinishedAt),
		ExitCode:    c.ExitCode,
		Image:       shownImage(c.Config.GetImage(), image),
		ImageRef:    digestRef(c, image),
		ImageId:     c.ImageID,
		Reason:      printable(c.Reason),
		Message:     printable(c.Message),
		Labels:      c.Config.GetLabels(),
		Annotations: c.Config.GetAnnotations(),
		Mounts:      c.Mounts,
		LogPath:     c.LogPath,
		User:        c.User,
		StopSignal:  stopSignal(c.StopSignal),
	}
	if resources := c.Config.GetLinux().GetResources(); resources != nil {
		status.Resources = &runtime.ContainerResources{Linux: resources}
	}
	return status
}

// shownImage is the image's spec with a name that people know: a kubelet
// creates by the id that the pull answered, and shows this in the pod's status.
func shownImage(spec *runtime.ImageSpec, image messages.Image) *runtime.ImageSpec {
	name := spec.GetUserSpecifiedImage()
	if name == "" && image.ID != "" && isIDOf(spec.GetImage(), image) && len(image.RepoTags) > 0 {
		name = image.RepoTags[0]
	}
	if spec == nil || name == "" {
		return spec
	}
	shown := proto.Clone(spec).(*runtime.ImageSpec)
	shown.Image = name
	return shown
}

// isIDOf says whether a reference is the image's id or a prefix of it.
func isIDOf(ref string, image messages.Image) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	return hex != "" && strings.HasPrefix(image.ID, hex)
}

// stopSignal turns SIGTERM into SIGNAL_SIGTERM, and SIGRTMIN+3 into
// SIGNAL_SIGRTMINPLUS3; a signal that CRI has no value for is its zero value.
func stopSignal(name string) runtime.Signal {
	name = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(name)
	return runtime.Signal(runtime.Signal_value["SIGNAL_"+name])
}

// printable makes text from outside fit for a message: one string that is not
// UTF-8 would fail a whole list.
func printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func containerInfo(c *messages.ContainerSnapshot) (map[string]string, error) {
	return info(map[string]any{
		"sandboxID": c.Pod,
		"pid":       c.Pid,
		"state":     c.State,
		"activity":  c.Activity,
		"timeline":  c.Timeline,
		"imageID":   c.ImageID,
		"config":    c.Config,
	})
}

// info is the map of a verbose status: one key, "info", with JSON in it, which
// is what crictl shows.
func info(value any) (map[string]string, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "encode verbose status: %w", err)
	}
	return map[string]string{"info": printable(string(encoded))}, nil
}

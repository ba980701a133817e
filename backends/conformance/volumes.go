package conformance

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// VolumesHarness is a Volumes and an image it can mount.
type VolumesHarness struct {
	Volumes backends.Volumes
	ImageID string // of an image that is there
}

// Volumes checks the promises of backends.Volumes.
func Volumes(t *testing.T, new func(t *testing.T) VolumesHarness) {
	mount := func(t *testing.T, h VolumesHarness, pod, container string) backends.VolumePaths {
		t.Helper()
		paths, err := h.Volumes.Mount(context30s(t), backends.VolumesRequest{
			Pod: pod, Container: container, Images: []backends.ImageVolume{{ImageID: h.ImageID}, {ImageID: h.ImageID}},
		})
		must(t, err)
		if len(paths.Images) != 2 || paths.Images[0] == "" {
			t.Errorf("%+v for two mounts of an image", paths)
		}
		return paths
	}
	t.Run("MountingAgainGivesTheSamePaths", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		first := mount(t, h, pod, c)
		if second := mount(t, h, pod, c); !reflect.DeepEqual(first, second) {
			t.Errorf("first %+v, then %+v", first, second)
		}
		wantHeld(t, h.Volumes, pod)
		must(t, h.Volumes.Unmount(context30s(t), pod, c))
		wantNothingHeld(t, h.Volumes, pod)
	})
	t.Run("UnmountWithoutMountAndTwiceIsASuccess", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		must(t, h.Volumes.Unmount(context30s(t), pod, c))
		mount(t, h, pod, c)
		must(t, h.Volumes.Unmount(context30s(t), pod, c))
		must(t, h.Volumes.Unmount(context30s(t), pod, c))
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		h, pod, other := new(t), ID(t), ID(t)
		for _, p := range []string{pod, pod, other} {
			mount(t, h, p, ID(t))
		}
		dropAll(t, h.Volumes, pod)
		wantHeld(t, h.Volumes, other)
		dropAll(t, h.Volumes, other)
	})
	t.Run("AnUnknownImageIsAFailedImageVolumeAndLeavesNothing", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		_, err := h.Volumes.Mount(context30s(t), backends.VolumesRequest{Pod: pod, Container: c, Images: []backends.ImageVolume{{ImageID: ID(t)}}})
		if messages.KindOf(err) != messages.ImageVolumeMountFailed {
			t.Errorf("error %v of kind %v, want ImageVolumeMountFailed", err, messages.KindOf(err))
		}
		wantNothingHeld(t, h.Volumes, pod)
	})
	t.Run("ACallWhoseContextHasEndedChangesNothing", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := h.Volumes.Mount(ctx, backends.VolumesRequest{Pod: pod, Container: c, Images: []backends.ImageVolume{{ImageID: h.ImageID}}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
		wantNothingHeld(t, h.Volumes, pod)
		if err := h.Volumes.Relabel(ctx, backends.Relabel{Path: t.TempDir(), Label: "a:b:c:s0"}, func(int64) {}); !errors.Is(err, context.Canceled) {
			t.Errorf("relabelling: %v, want %v", err, context.Canceled)
		}
	})
}

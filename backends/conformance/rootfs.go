package conformance

import (
	"context"
	"errors"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// RootfsHarness is a Rootfs and an image it can be mounted over.
type RootfsHarness struct {
	Rootfs  backends.Rootfs
	ImageID string // of an image that is there
}

// Rootfs checks the promises of backends.Rootfs.
func Rootfs(t *testing.T, new func(t *testing.T) RootfsHarness) {
	mount := func(t *testing.T, h RootfsHarness, pod, container string) string {
		t.Helper()
		path, err := h.Rootfs.Mount(context30s(t), backends.RootfsRequest{Pod: pod, Container: container, ImageID: h.ImageID})
		must(t, err)
		if path == "" {
			t.Error("no path")
		}
		return path
	}
	t.Run("MountingAgainGivesTheSamePath", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		first := mount(t, h, pod, c)
		if second := mount(t, h, pod, c); first != second {
			t.Errorf("first %q, then %q", first, second)
		}
		wantHeld(t, h.Rootfs, pod)
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
		wantNothingHeld(t, h.Rootfs, pod)
	})
	t.Run("EachContainerHasItsOwnRoot", func(t *testing.T) {
		h, pod, one, two := new(t), ID(t), ID(t), ID(t)
		if a, b := mount(t, h, pod, one), mount(t, h, pod, two); a == b {
			t.Errorf("both at %q", a)
		}
		must(t, h.Rootfs.Unmount(context30s(t), pod, one))
		wantHeld(t, h.Rootfs, pod)
		must(t, h.Rootfs.Unmount(context30s(t), pod, two))
		wantNothingHeld(t, h.Rootfs, pod)
	})
	t.Run("UnmountWithoutMountAndTwiceIsASuccess", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
		mount(t, h, pod, c)
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
	})
	t.Run("ARootCanBeMountedAgainAfterItsUnmount", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		mount(t, h, pod, c)
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
		mount(t, h, pod, c)
		must(t, h.Rootfs.Unmount(context30s(t), pod, c))
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		h, pod, other := new(t), ID(t), ID(t)
		for _, p := range []string{pod, pod, other} {
			mount(t, h, p, ID(t))
		}
		dropAll(t, h.Rootfs, pod)
		wantHeld(t, h.Rootfs, other)
		dropAll(t, h.Rootfs, other)
	})
	t.Run("AnUnknownImageIsNotFoundAndLeavesNothing", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		_, err := h.Rootfs.Mount(context30s(t), backends.RootfsRequest{Pod: pod, Container: c, ImageID: ID(t)})
		if messages.KindOf(err) != messages.NotFound {
			t.Errorf("error %v of kind %v, want NotFound", err, messages.KindOf(err))
		}
		wantNothingHeld(t, h.Rootfs, pod)
	})
	t.Run("ACallWhoseContextHasEndedChangesNothing", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := h.Rootfs.Mount(ctx, backends.RootfsRequest{Pod: pod, Container: c, ImageID: h.ImageID}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
		wantNothingHeld(t, h.Rootfs, pod)
	})
}

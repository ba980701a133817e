package conformance

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BundlesHarness is a Bundles on a node with mounted roots.
type BundlesHarness struct {
	Bundles backends.Bundles
	// Rootfs gives the mounted root of a container; its image has a user
	// "root" and none of the name "stranger".
	Rootfs func(t *testing.T, pod, container string) string
	// Missing is a path that the node does not have.
	Missing string
}

// request is a container that can be made.
func (h BundlesHarness) request(t *testing.T, pod, container string) backends.BundleRequest {
	t.Helper()
	return backends.BundleRequest{
		Pod: pod, Container: container, CgroupParent: "/conformance", Handler: "troupe",
		Namespaces: messages.Namespaces{PID: "/proc/1/ns/pid"},
		Rootfs:     h.Rootfs(t, pod, container),
		PodConfig: &runtime.PodSandboxConfig{
			Metadata:     &runtime.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid"},
			LogDirectory: "/var/log/pods/pod",
		},
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "c"}, Command: []string{"/bin/true"}, LogPath: "c/0.log",
			Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{}},
		},
	}
}

// Bundles checks the promises of backends.Bundles.
func Bundles(t *testing.T, new func(t *testing.T) BundlesHarness) {
	write := func(t *testing.T, h BundlesHarness, r backends.BundleRequest) backends.Bundle {
		t.Helper()
		b, err := h.Bundles.Write(context30s(t), r)
		must(t, err)
		if b.Dir == "" {
			t.Error("no directory")
		}
		return b
	}
	t.Run("WritingAgainGivesTheSame", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		r := h.request(t, pod, c)
		first := write(t, h, r)
		if second := write(t, h, r); !reflect.DeepEqual(first, second) {
			t.Errorf("first %+v, then %+v", first, second)
		}
		wantHeld(t, h.Bundles, pod)
	})
	t.Run("TheAnswerSaysWhatTheRequestAndTheImageSay", func(t *testing.T) {
		h := new(t)
		r := h.request(t, ID(t), ID(t))
		b := write(t, h, r)
		if b.LogPath != "/var/log/pods/pod/c/0.log" || b.StopSignal != "SIGTERM" {
			t.Errorf("log path %q, stop signal %q", b.LogPath, b.StopSignal)
		}
		r.Image.StopSignal = "QUIT"
		r.Config.Linux.SecurityContext.RunAsUsername = "root"
		if b := write(t, h, r); b.StopSignal != "SIGQUIT" || b.User.GetLinux().GetUid() != 0 {
			t.Errorf("stop signal %q, user %v", b.StopSignal, b.User)
		}
	})
	t.Run("ItsResourcesAreReplaced", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		r, err := h.Bundles.Resources(context30s(t), pod, c, &runtime.LinuxContainerResources{CpuShares: 512})
		must(t, err)
		if err := h.Bundles.SetResources(context30s(t), pod, c, r); messages.KindOf(err) != messages.Precondition {
			t.Errorf("without a bundle: kind %v: %v", messages.KindOf(err), err)
		}
		wantNothingHeld(t, h.Bundles, pod)
		write(t, h, h.request(t, pod, c))
		for range 2 {
			must(t, h.Bundles.SetResources(context30s(t), pod, c, r))
		}
		must(t, h.Bundles.Remove(context30s(t), pod, c))
		wantNothingHeld(t, h.Bundles, pod)
	})
	t.Run("RemoveWithoutWriteAndTwiceIsASuccess", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		must(t, h.Bundles.Remove(context30s(t), pod, c))
		write(t, h, h.request(t, pod, c))
		must(t, h.Bundles.Remove(context30s(t), pod, c))
		must(t, h.Bundles.Remove(context30s(t), pod, c))
		wantNothingHeld(t, h.Bundles, pod)
	})
	t.Run("EachContainerAndThePauseProcessHaveTheirOwn", func(t *testing.T) {
		h, pod, c := new(t), ID(t), ID(t)
		container := write(t, h, h.request(t, pod, c))
		pause := h.request(t, pod, c)
		pause.Container, pause.Config, pause.Rootfs = pod, nil, ""
		if b := write(t, h, pause); b.Dir == container.Dir {
			t.Errorf("both in %s", b.Dir)
		}
		must(t, h.Bundles.Remove(context30s(t), pod, c))
		wantHeld(t, h.Bundles, pod)
		must(t, h.Bundles.Remove(context30s(t), pod, pod))
		wantNothingHeld(t, h.Bundles, pod)
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		h, pod := new(t), ID(t)
		write(t, h, h.request(t, pod, ID(t)))
		write(t, h, h.request(t, pod, ID(t)))
		dropAll(t, h.Bundles, pod)
	})
	bundlesRefuse(t, new)
}

// bundlesRefuse checks that what cannot be made is refused, naming it, and
// leaves nothing behind.
func bundlesRefuse(t *testing.T, new func(t *testing.T) BundlesHarness) {
	for _, c := range []struct {
		name  string
		spoil func(BundlesHarness, *backends.BundleRequest)
		names []string
	}{
		{"AMissingMountSource", func(h BundlesHarness, r *backends.BundleRequest) {
			r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: h.Missing}}
		}, []string{"/data", "does not exist"}},
		{"AContainerWithNothingToRun", func(_ BundlesHarness, r *backends.BundleRequest) { r.Config.Command = nil }, []string{"image"}},
		{"AUserTheImageDoesNotHave", func(_ BundlesHarness, r *backends.BundleRequest) {
			r.Config.Linux.SecurityContext.RunAsUsername = "stranger"
		}, []string{"stranger", "/etc/passwd"}},
	} {
		t.Run(c.name+"IsRefused", func(t *testing.T) {
			h, pod := new(t), ID(t)
			r := h.request(t, pod, ID(t))
			c.spoil(h, &r)
			_, err := h.Bundles.Write(context30s(t), r)
			if messages.KindOf(err) != messages.Invalid {
				t.Fatalf("kind %v: %v", messages.KindOf(err), err)
			}
			for _, name := range c.names {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("%q does not say %q", err, name)
				}
			}
			wantNothingHeld(t, h.Bundles, pod)
		})
	}
	t.Run("LabelsAreAPodsUntilTheirRelease", func(t *testing.T) {
		h, pod := new(t), ID(t)
		r := backends.LabelRequest{Pod: pod, PodConfig: h.request(t, pod, ID(t)).PodConfig}
		first, err := h.Bundles.Labels(context30s(t), r)
		must(t, err)
		second, err := h.Bundles.Labels(context30s(t), r)
		must(t, err)
		if first != second {
			t.Errorf("first %+v, then %+v", first, second)
		}
		must(t, h.Bundles.Release(context30s(t), pod))
		must(t, h.Bundles.Release(context30s(t), pod))
		wantNothingHeld(t, h.Bundles, pod)
	})
	t.Run("AContextThatHasEndedEndsTheCall", func(t *testing.T) {
		h, pod := new(t), ID(t)
		r := h.request(t, pod, ID(t))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := h.Bundles.Write(ctx, r); messages.KindOf(err) != messages.Canceled {
			t.Errorf("kind %v: %v", messages.KindOf(err), err)
		}
	})
}

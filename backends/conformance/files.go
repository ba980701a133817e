package conformance

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Files checks the promises of backends.Files.
func Files(t *testing.T, new func(t *testing.T) backends.Files) {
	request := func(pod string) backends.FilesRequest {
		return backends.FilesRequest{Pod: pod, Hostname: "conformance", DNS: &runtime.DNSConfig{Servers: []string{"192.0.2.1"}}, ShmSize: 1 << 20}
	}
	t.Run("EveryFileCarriesThePodsId", func(t *testing.T) {
		f, pod := new(t), ID(t)
		got, err := f.Make(context30s(t), request(pod))
		must(t, err)
		for _, path := range []string{got.ResolvConf, got.Hostname, got.Shm} {
			if !strings.Contains(path, pod) {
				t.Errorf("path %q does not carry the pod's id", path)
			}
		}
		must(t, f.Remove(context30s(t), pod))
	})
	t.Run("HostIPCGivesTheNodesShm", func(t *testing.T) {
		f, pod := new(t), ID(t)
		got, err := f.Make(context30s(t), backends.FilesRequest{Pod: pod, Hostname: "x", HostIPC: true})
		must(t, err)
		if got.Shm != "/dev/shm" {
			t.Errorf("shm is %q", got.Shm)
		}
		must(t, f.Remove(context30s(t), pod))
		wantNothingHeld(t, f, pod)
	})
	t.Run("MakingAgainGivesTheSame", func(t *testing.T) {
		f, pod := new(t), ID(t)
		first, err := f.Make(context30s(t), request(pod))
		must(t, err)
		second, err := f.Make(context30s(t), request(pod))
		must(t, err)
		if first != second {
			t.Errorf("first %+v, then %+v", first, second)
		}
		must(t, f.Remove(context30s(t), pod))
		wantNothingHeld(t, f, pod)
	})
	t.Run("RemoveWithoutMakeAndTwiceIsASuccess", func(t *testing.T) {
		f, pod := new(t), ID(t)
		must(t, f.Remove(context30s(t), pod))
		_, err := f.Make(context30s(t), request(pod))
		must(t, err)
		must(t, f.Remove(context30s(t), pod))
		must(t, f.Remove(context30s(t), pod))
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		f, pod, other := new(t), ID(t), ID(t)
		for _, p := range []string{pod, other} {
			_, err := f.Make(context30s(t), request(p))
			must(t, err)
			wantHeld(t, f, p)
		}
		dropAll(t, f, pod)
		wantHeld(t, f, other)
		dropAll(t, f, other)
	})
	t.Run("LinesOfTheAuthorsChoiceAreRefusedAndLeaveNothing", func(t *testing.T) {
		f := new(t)
		for _, r := range []backends.FilesRequest{
			{Hostname: "a\nb"},
			{Hostname: "a", DNS: &runtime.DNSConfig{Servers: []string{"192.0.2.1\nnameserver 198.51.100.1"}}},
			{Hostname: "a", DNS: &runtime.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"x\noptions debug"}}},
			{Hostname: "a", DNS: &runtime.DNSConfig{Servers: []string{"192.0.2.1"}, Options: []string{"ndots:5\nnameserver 198.51.100.1"}}},
		} {
			r.Pod = ID(t)
			if _, err := f.Make(context30s(t), r); err == nil || messages.KindOf(err) != messages.Invalid {
				t.Errorf("%q %v: got %v, want an error of kind Invalid", r.Hostname, r.DNS, err)
			}
			wantNothingHeld(t, f, r.Pod)
		}
	})
}

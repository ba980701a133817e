package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"golang.org/x/sys/unix"
)

// A container whose record is lost is found by what its cgroup says, wherever
// the kubelet had it made; what does not say that it is ours stays, whatever its
// name.
func TestAContainersCgroupIsFoundByItsMarkAndOthersStay(t *testing.T) {
	parent := "/troupe-test-" + conformance.ID(t)[:8]
	b, err := New(Config{Manager: Cgroupfs, Parent: parent + "/own", Mark: "trusted.troupe", Owner: "/run/ours with a space/monitor"})
	ok(t, err)
	t.Cleanup(func() {
		for _, h := range b.everywhere {
			ok(t, h.remove(t.Context(), filepath.Join(h.mount, parent)))
		}
	})
	pod := conformance.ID(t)
	plant := func(name, mark string) string {
		for _, h := range b.everywhere {
			if h.foreign {
				continue
			}
			dir := filepath.Join(h.mount, parent, "kubepods", "pod7", name)
			ok(t, os.MkdirAll(dir, 0o755))
			if mark != "" {
				ok(t, unix.Setxattr(dir, "trusted.troupe", []byte(mark), 0))
			}
		}
		return parent + "/kubepods/pod7/" + name
	}
	busy, empty := conformance.ID(t), conformance.ID(t)
	ours := map[string]string{
		plant("troupe-"+busy, pod+" "+busy+" /run/ours with a space/monitor"):            backends.HeldProcess,
		plant("troupe-"+empty+".scope", pod+" "+empty+" /run/ours with a space/monitor"): "cgroup",
	}
	other := conformance.ID(t)
	strangers := []string{
		plant("troupe-"+other, pod+" "+other+" /run/another/monitor"),
		plant("troupe-"+conformance.ID(t), ""), // not marked: nobody knows
		plant("troupe-"+conformance.ID(t)+".scope", "nonsense"),
		plant("crio-"+busy, pod+" "+busy+" /run/ours with a space/monitor"),
		plant("kubelets", ""),
	}
	first := b.everywhere[0].mount
	for _, h := range b.everywhere {
		if !h.foreign {
			first = h.mount
		}
	}
	// Its processes may be in a cgroup below the container's, and of one hierarchy.
	_, ended := sleeper(t, filepath.Join(first, parent, "kubepods/pod7/troupe-"+busy, "below"), "exec sleep 1000")
	_, lives := sleeper(t, filepath.Join(first, strangers[0]), "exec sleep 1000")

	held, err := b.Held(t.Context())
	ok(t, err)
	if len(held) != len(ours) {
		t.Errorf("held: %v", held)
	}
	for _, h := range held {
		if want := ours[h.Name]; want != h.Kind || h.Pod != pod || !strings.Contains(h.Name, h.Container) {
			t.Errorf("held: %+v, want kind %q", h, want)
		}
		ok(t, b.Drop(t.Context(), h))
		ok(t, b.Drop(t.Context(), h)) // again is a success
	}
	wantEnd(t, ended)
	for _, h := range b.everywhere {
		if h.foreign {
			continue
		}
		for name := range ours {
			if _, err := os.Stat(filepath.Join(h.mount, name)); err == nil {
				t.Errorf("%s is still there in %s", name, h.mount)
			}
		}
		for _, name := range strangers {
			if _, err := os.Stat(filepath.Join(h.mount, name)); err != nil {
				t.Errorf("somebody else's cgroup was touched: %v", err)
			}
		}
	}
	select {
	case <-lives:
		t.Error("somebody else's process was killed")
	default:
	}
	// Not even when asked to.
	ok(t, b.Drop(t.Context(), backends.Held{Kind: backends.HeldProcess, Pod: pod, Container: other, Name: strangers[0]}))
	if err := b.Drop(t.Context(), backends.Held{Pod: pod, Container: busy, Name: parent + "/kubepods/../kubepods"}); err == nil {
		t.Error("a path that is no container's was taken")
	}
	if _, err := os.Stat(filepath.Join(first, strangers[0])); err != nil {
		t.Error(err)
	}
}

package bundles

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podWith(sc *runtime.LinuxSandboxSecurityContext) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: sc}}
}

func containerWith(sc *runtime.LinuxContainerSecurityContext) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{Linux: &runtime.LinuxContainerConfig{SecurityContext: sc}}
}

func TestWhoIsLabelledHow(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) { c.HostnetworkDisableSELinux = true })
	node := runtime.NamespaceMode_NODE
	pod := &runtime.SELinuxOption{User: "u", Level: "s0:c1,c2"}
	for name, c := range map[string]struct {
		pod  *runtime.LinuxSandboxSecurityContext
		own  *runtime.LinuxContainerSecurityContext
		want labelOptions
	}{
		"nobody asks":             {&runtime.LinuxSandboxSecurityContext{}, nil, labelOptions{}},
		"the pod's":               {&runtime.LinuxSandboxSecurityContext{SelinuxOptions: pod}, nil, labelOptions{user: "u", level: "s0:c1,c2"}},
		"the container's first":   {&runtime.LinuxSandboxSecurityContext{SelinuxOptions: pod}, &runtime.LinuxContainerSecurityContext{SelinuxOptions: &runtime.SELinuxOption{Type: "t", User: "v"}}, labelOptions{user: "v", kind: "t", level: "s0:c1,c2"}},
		"host network":            {&runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: node}}, nil, labelOptions{noProcess: true}},
		"host PID":                {&runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: node}}, nil, labelOptions{disabled: true}},
		"host IPC":                {&runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Ipc: node}}, nil, labelOptions{disabled: true}},
		"privileged":              {&runtime.LinuxSandboxSecurityContext{Privileged: true}, &runtime.LinuxContainerSecurityContext{Privileged: true}, labelOptions{disabled: true}},
		"beside a privileged one": {&runtime.LinuxSandboxSecurityContext{Privileged: true}, &runtime.LinuxContainerSecurityContext{}, labelOptions{}},
	} {
		r := backends.LabelRequest{Pod: "p", PodConfig: podWith(c.pod)}
		if c.own != nil {
			r.Config = containerWith(c.own)
		}
		equal(t, name, b.labelOptions(r), c.want)
	}
	equal(t, "for the library", labelOptions{user: "u", kind: "t", level: "s0:c1"}.list(), []string{"user:u", "type:t", "level:s0:c1"})
	equal(t, "disabled", labelOptions{level: "x", disabled: true}.list(), []string{"disable"})
}

func TestNothingIsLabelledWhereSELinuxIsOffOrNotWanted(t *testing.T) {
	on := testNode(t)
	on.selinux = true
	for name, b := range map[string]*Backend{
		"off": newTest(t, testNode(t)), "selinux=false": newTest(t, on, func(c *Config) { c.DisableSELinux = true }),
	} {
		got, err := b.Labels(t.Context(), backends.LabelRequest{Pod: conformance.ID(t), PodConfig: podWith(nil)})
		if err != nil || got != (messages.Labels{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	r := request(t)
	r.Labels = messages.Labels{Process: "a:b:c:d", Mount: "a:b:c:d"}
	wantError(t, newTest(t, testNode(t)), r, messages.Precondition, "SELinux is off")
}

func TestALabelComesIntoTheSpec(t *testing.T) {
	on := testNode(t)
	on.selinux = true
	r := request(t)
	r.Labels = messages.Labels{Process: "a:b:c:s0", Mount: "a:b:f:s0"}
	spec, _ := written(t, newTest(t, on), r)
	equal(t, "process", spec.Process.SelinuxLabel, "a:b:c:s0")
	equal(t, "files", spec.Linux.MountLabel, "a:b:f:s0")
}

func TestEachPodHasALevelOfItsOwnUntilItIsReleased(t *testing.T) {
	l := &levels{dir: t.TempDir()}
	var all sync.Map
	var wait sync.WaitGroup
	pods := make([]string, 64)
	for i := range pods {
		pods[i] = conformance.ID(t)
		wait.Go(func() {
			level, err := l.take(pods[i])
			if err != nil || !strings.HasPrefix(level, "s0:c") {
				t.Errorf("%q, %v", level, err)
			}
			if other, taken := all.LoadOrStore(level, pods[i]); taken {
				t.Errorf("%s is of two pods, %v too", level, other)
			}
		})
	}
	wait.Wait()
	first, err := l.take(pods[0])
	if err != nil {
		t.Fatal(err)
	}
	// A daemon that was started again knows them, and another pod whose first
	// choice is taken gets the next.
	l = &levels{dir: l.dir}
	equalLevel := func(pod, want string, same bool) {
		t.Helper()
		if got, err := l.take(pod); err != nil || (got == want) != same {
			t.Errorf("pod %.8s has %q (%v), want %q: %v", pod, got, err, want, same)
		}
	}
	equalLevel(pods[0], first, true)
	if err := os.Remove(l.dir + "/" + strings.TrimPrefix(first, "s0:")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(conformance.ID(t), l.dir+"/"+strings.TrimPrefix(first, "s0:")); err != nil {
		t.Fatal(err)
	}
	equalLevel(pods[0], first, false)
	for range 2 {
		if err := l.release(pods[1]); err != nil {
			t.Fatal(err)
		}
	}
	held, err := l.held()
	if err != nil || len(held) != len(pods) {
		t.Errorf("%d are held (%v), want %d", len(held), err, len(pods))
	}
}

func TestALevelNobodyOwnsIsDropped(t *testing.T) {
	b := newTest(t, testNode(t))
	pod := conformance.ID(t)
	if _, err := b.levels.take(pod); err != nil {
		t.Fatal(err)
	}
	held, err := b.Held(t.Context())
	if err != nil || len(held) != 1 || held[0].Pod != pod {
		t.Fatalf("%v, %v", held, err)
	}
	if err := b.Drop(t.Context(), held[0]); err != nil {
		t.Fatal(err)
	}
	if held, _ := b.Held(t.Context()); len(held) > 0 {
		t.Error(fmt.Sprint(held))
	}
}

package bundles

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAnUpdateChangesTheResourcesOfABundleAndNothingElse(t *testing.T) {
	root := t.TempDir()
	b, err := New(Config{Root: root, PidsLimit: 77})
	if err != nil {
		t.Fatal(err)
	}
	dir := b.dir("pod", "container")
	limit := int64(77)
	written := &specs.Spec{Version: specVersion, Hostname: "kept", Linux: &specs.Linux{CgroupsPath: "/a/b", Resources: &specs.LinuxResources{
		Pids: &specs.LinuxPids{Limit: &limit}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, CPU: &specs.LinuxCPU{Cpus: "0"},
	}}}
	if err := writeSpec(dir, written); err != nil {
		t.Fatal(err)
	}
	r, err := b.Resources(t.Context(), "pod", "container", &runtime.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetResources(t.Context(), "pod", "container", r); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, specName))
	var got specs.Spec
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil {
		t.Fatal(err)
	}
	res := got.Linux.Resources
	if res.CPU == nil || *res.CPU.Shares != 512 || res.CPU.Cpus != "" || *res.Memory.Limit != 64<<20 {
		t.Errorf("resources are %+v", res)
	}
	if got.Hostname != "kept" || got.Linux.CgroupsPath != "/a/b" || *res.Pids.Limit != 77 || len(res.Devices) != 1 {
		t.Errorf("something else has changed: %s", data)
	}
}

func TestAnUpdateTheNodeCannotGiveIsRefused(t *testing.T) {
	b, err := New(Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b.node.unified = false
	_, err = b.Resources(t.Context(), "pod", "container", &runtime.LinuxContainerResources{Unified: map[string]string{"memory.high": "1"}})
	if messages.KindOf(err) != messages.Invalid {
		t.Errorf("unified keys on cgroup v1: %v", err)
	}
	_, err = b.Resources(t.Context(), "pod", "container", &runtime.LinuxContainerResources{HugepageLimits: []*runtime.HugepageLimit{{PageSize: "3MB", Limit: 1}}})
	if messages.KindOf(err) != messages.Invalid {
		t.Errorf("pages there are not: %v", err)
	}
}

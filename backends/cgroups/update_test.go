package cgroups

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// controlsOf reads what a pod's cgroup is limited to, wherever its files are.
func controlsOf(t *testing.T, b *Backend, parent string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, h := range b.hierarchies {
		if h.foreign {
			continue
		}
		for _, c := range h.controls(filepath.Join(h.mount, parent), nil) {
			data, err := os.ReadFile(c.file)
			if err != nil {
				t.Fatal(err)
			}
			got[filepath.Base(c.file)] = string(data)
		}
	}
	return got
}

func TestACgroupOfOursIsLimitedAndAFailureChangesNothing(t *testing.T) {
	id := make([]byte, 32)
	_, _ = rand.Read(id)
	pod := hex.EncodeToString(id)
	b, err := New(Config{Manager: Cgroupfs, Parent: "/troupe-update-" + pod[:12]})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := b.Make(t.Context(), pod, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Remove(t.Context(), pod); err != nil {
			t.Error(err)
		}
	})
	before := controlsOf(t, b, parent)
	if _, v1 := before["memory.limit_in_bytes"]; !v1 {
		t.Skip("on cgroup v2 the controllers are turned on with the first container")
	}
	ok := &runtime.LinuxContainerResources{CpuShares: 700, CpuQuota: 50_000, CpuPeriod: 100_000, MemoryLimitInBytes: 64 << 20}
	if err := b.Update(t.Context(), pod, parent, ok); err != nil {
		t.Fatal(err)
	}
	limited := controlsOf(t, b, parent)
	for file, want := range map[string]string{"cpu.shares": "700\n", "cpu.cfs_quota_us": "50000\n", "memory.limit_in_bytes": "67108864\n"} {
		if limited[file] != want {
			t.Errorf("%s is %q", file, limited[file])
		}
	}
	bad := &runtime.LinuxContainerResources{CpuShares: 900, CpuQuota: 3, MemoryLimitInBytes: 32 << 20}
	if err := b.Update(t.Context(), pod, parent, bad); messages.KindOf(err) != messages.Invalid {
		t.Errorf("a quota below the kernel's: %v", err)
	}
	for file, value := range controlsOf(t, b, parent) {
		if value != limited[file] {
			t.Errorf("after a failure %s is %q, was %q", file, value, limited[file])
		}
	}
	if err := b.Update(t.Context(), pod, "/kubepods/pod1", ok); err != nil { // the kubelet's
		t.Error(err)
	}
	if err := b.Update(t.Context(), pod, parent, nil); err != nil {
		t.Fatal(err)
	}
	for file, value := range controlsOf(t, b, parent) {
		if value != before[file] {
			t.Errorf("without limits %s is %q, was %q", file, value, before[file])
		}
	}
}

package messages

import (
	"testing"

	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestWhatAnUpdateDoesNotNameKeepsItsValue(t *testing.T) {
	type res = runtime.LinuxContainerResources
	old := &res{
		CpuPeriod: 100_000, CpuQuota: 50_000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 100, CpusetCpus: "0",
		HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 1 << 21}}, Unified: map[string]string{"memory.high": "1"},
	}
	before := proto.Clone(old).(*res)
	for _, c := range []struct {
		name  string
		asked *res
		want  func(*res)
	}{
		{"nothing", &res{}, func(*res) {}},
		{"cpu", &res{CpuQuota: -1, CpuShares: 2}, func(r *res) { r.CpuQuota, r.CpuShares = -1, 2 }},
		{"oom score", &res{OomScoreAdj: 999}, func(*res) {}},
		{"pages", &res{HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB", Limit: 1 << 30}}}, func(r *res) {
			r.HugepageLimits = []*runtime.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB", Limit: 1 << 30}}
		}},
		{"unified", &res{Unified: map[string]string{"memory.low": "5"}}, func(r *res) { r.Unified["memory.low"] = "5" }},
		{"memory and swap", &res{MemoryLimitInBytes: 1 << 30, MemorySwapLimitInBytes: -1}, func(r *res) { r.MemoryLimitInBytes, r.MemorySwapLimitInBytes = 1<<30, -1 }},
	} {
		want := proto.Clone(before).(*res)
		c.want(want)
		if got := Resized(old, c.asked); !proto.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", c.name, got, want)
		}
	}
	if !proto.Equal(old, before) {
		t.Errorf("the old resources were changed to %v", old)
	}
}

func TestASwapLimitIsNeverBelowTheMemoryLimitItGoesWith(t *testing.T) {
	old := &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20}
	for limit, want := range map[int64]int64{80 << 20: 96 << 20, 128 << 20: 128 << 20} {
		if got := Resized(old, &runtime.LinuxContainerResources{MemoryLimitInBytes: limit}).MemorySwapLimitInBytes; got != want {
			t.Errorf("memory %d: swap is %d, want %d", limit, got, want)
		}
	}
}

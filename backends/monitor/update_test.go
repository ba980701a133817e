package monitor_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor"
	"github.com/troupe-run/troupe/messages"
)

// limitNames are the files an update can change, in both kinds of cgroup.
var limitNames = map[bool][]string{
	false: {
		"cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus",
		"memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "pids/pids.max",
	},
	true: {"cpu.weight", "cpu.max", "cpuset.cpus", "memory.max", "memory.swap.max", "memory.high", "pids.max"},
}

// limits reads a container's limits back from the kernel.
func (n *node) limits(r backends.ProcessRequest) map[string]string {
	n.t.Helper()
	got := map[string]string{}
	for _, name := range limitNames[cgroups.IsCgroup2UnifiedMode()] {
		dir, file := filepath.Split(name)
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, n.cgroup, r.Container, file))
		if err != nil && !os.IsNotExist(err) { // no swap accounting, say
			n.t.Fatal(err)
		}
		got[file] = strings.TrimSpace(string(data))
	}
	return got
}

func (n *node) update(r backends.ProcessRequest, l *specs.LinuxResources) error {
	n.t.Helper()
	data, err := json.Marshal(l)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.Update(n.ctx(), r.Pod, r.Container, data)
}

func ptr[T any](v T) *T { return &v }

// some is an update of all that this machine's test can see.
func some(memory int64) *specs.LinuxResources {
	return &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](40_000), Period: ptr[uint64](80_000), Cpus: "0"},
		Memory: &specs.LinuxMemory{Limit: ptr(memory), Swap: ptr(memory)},
	}
}

func wantLimits(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], value)
		}
	}
}

func someInForce(memory string) map[string]string {
	if cgroups.IsCgroup2UnifiedMode() {
		return map[string]string{"cpu.max": "40000 80000", "cpuset.cpus": "0", "memory.max": memory}
	}
	return map[string]string{
		"cpu.shares": "512", "cpu.cfs_quota_us": "40000", "cpu.cfs_period_us": "80000", "cpuset.cpus": "0", "memory.limit_in_bytes": memory,
	}
}

// old is a version that crun of Debian 12 knows.
func old(s *specs.Spec) { s.Version = "1.0.2" }

// engines runs a test with libcontainer and with each OCI runtime there is.
func engines(t *testing.T, f func(t *testing.T, n *node, handler string)) {
	for _, handler := range append([]string{monitor.Builtin}, slices.Sorted(maps.Keys(ociRuntimes()))...) {
		t.Run(handler, func(t *testing.T) { f(t, newNode(t), handler) })
	}
}

func TestAnUpdateIsInForceWhenItIsAnswered(t *testing.T) {
	engines(t, updatesAreInForce)
}

func updatesAreInForce(t *testing.T, n *node, handler string) {
	for _, started := range []bool{false, true} {
		r := n.container([]string{"/bin/sleep", "1000"}, old, func(s *specs.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr[int64](50)} })
		r.Handler = handler
		if _, err := n.Create(n.ctx(), r); err != nil {
			t.Fatal(err)
		}
		if started {
			if _, err := n.Start(n.ctx(), r.Pod, r.Container); err != nil {
				t.Fatal(err)
			}
		}
		before := n.limits(r)
		for memory, text := range map[int64]string{64 << 20: "67108864", 256 << 20: "268435456", 32 << 20: "33554432"} { // up and down
			if err := n.update(r, some(memory)); err != nil {
				t.Fatalf("started %v: %v", started, err)
			}
			wantLimits(t, "after an update", n.limits(r), someInForce(text))
			wantLimits(t, "what is not CRI's", n.limits(r), map[string]string{"pids.max": "50"})
		}
		// An update that limits nothing takes them all back.
		if err := n.update(r, &specs.LinuxResources{}); err != nil {
			t.Fatal(err)
		}
		wantLimits(t, "taken back", n.limits(r), before)
		if !started {
			if _, err := n.Start(n.ctx(), r.Pod, r.Container); err != nil {
				t.Errorf("an updated container does not start: %v", err)
			}
		}
	}
}

func TestAnUpdateThatIsRefusedChangesNothing(t *testing.T) {
	engines(t, refusedUpdates)
}

func refusedUpdates(t *testing.T, n *node, handler string) {
	limited := n.container([]string{"/bin/sleep", "1000"}, old, func(s *specs.Spec) { s.Linux.Resources = some(64 << 20) })
	free := n.container([]string{"/bin/sleep", "1000"}, old)
	limited.Handler, free.Handler = handler, handler
	n.run(limited)
	n.run(free)
	spoil := map[string]func(*specs.LinuxResources){
		"a CPU that does not exist":  func(r *specs.LinuxResources) { r.CPU.Cpus = "4000" },
		"a quota below the kernel's": func(r *specs.LinuxResources) { r.CPU.Quota = ptr[int64](3) },
		"swap below memory":          func(r *specs.LinuxResources) { r.Memory.Swap = ptr[int64](1 << 20) },
		"a page size there is not": func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}
		},
		"a unified key there is not": func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.nosuch": "1"} },
	}
	for _, r := range []backends.ProcessRequest{limited, free} {
		before := n.limits(r)
		for what, f := range spoil {
			l := some(128 << 20)
			f(l)
			if err := n.update(r, l); err == nil {
				t.Errorf("%s: accepted", what)
			} else if kind := messages.KindOf(err); kind == messages.Unavailable {
				t.Errorf("%s: %v", what, err)
			}
			wantLimits(t, what, n.limits(r), before)
		}
		if err := n.update(r, some(128<<20)); err != nil {
			t.Errorf("after refusals: %v", err)
		}
	}
}

func TestAMemoryLimitBelowWhatIsUsedIsRefusedAndKillsNobody(t *testing.T) {
	n := newNode(t)
	// 32 MiB that cannot be given back: there is no swap to take them.
	r := n.container(shell("x=$(head -c 33554432 /dev/zero | tr '\\0' x); echo full; exec 3<>/dev/null; while :; do sleep 1000; done"))
	n.run(r)
	n.eventually("it uses its memory", func() bool { return strings.Contains(n.log(r), "full") })
	before := n.limits(r)
	err := n.update(r, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](8 << 20)}})
	wantKind(t, err, messages.Precondition, "8388608")
	wantLimits(t, "after the refusal", n.limits(r), before)
	if s, err := n.State(n.ctx(), r.Pod, r.Container); err != nil || s.Status != messages.ProcessRunning {
		t.Errorf("after the refusal: %+v, %v", s, err)
	}
}

func TestAnUpdateOutlivesTheMonitor(t *testing.T) {
	n := newNode(t)
	r := n.container([]string{"/bin/sleep", "1000"})
	n.run(r)
	before := n.limits(r)
	if err := n.update(r, some(64<<20)); err != nil {
		t.Fatal(err)
	}
	pid := n.monitorPid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("the monitor is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	n.disconnect()
	n.connect()
	wantLimits(t, "under the next monitor", n.limits(r), someInForce("67108864"))
	if err := n.update(r, &specs.LinuxResources{}); err != nil { // which knows what was before
		t.Fatal(err)
	}
	wantLimits(t, "taken back by the next monitor", n.limits(r), before)
}

func TestOnlyALivingContainerIsUpdated(t *testing.T) {
	n := newNode(t)
	r := n.container(shell("exit 0"))
	n.run(r)
	n.exit(r)
	wantKind(t, n.update(r, some(64<<20)), messages.Precondition, "exited")
	wantKind(t, n.update(backends.ProcessRequest{Pod: newID(), Container: newID()}, some(64<<20)), messages.NotFound, "not known")
}

package cri

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var measuredAt = time.Unix(1700000100, 7)

// usage is one of so many seconds of CPU and MiB of memory.
func usage(seconds, mib uint64) messages.Usage {
	return messages.Usage{
		At: measuredAt, Cgroup: "/kubepods/x",
		CPU:       messages.CPUUsage{Time: messages.Measured(seconds * 1e9), NanoCores: messages.Measured(seconds), Quota: messages.Measured(1), Periods: messages.Measured(5)},
		Memory:    messages.MemoryUsage{Current: messages.Measured(mib << 20), WorkingSet: messages.Measured(mib << 20), Limit: messages.Measured(100 << 20), Swap: messages.Measured(3)},
		Processes: messages.ProcessUsage{Count: messages.Measured(seconds)},
	}
}

// newMeasured is a gateway with three pods: a has a cgroup of its own, b has
// none, c is not ready and has nothing that runs.
func newMeasured(t *testing.T, change ...func(*Config)) *gateway {
	g := newGateway(t, change...)
	g.view.pods = []*messages.PodSnapshot{
		samplePod("a", messages.PodReady, map[string]string{"app": "web"}),
		samplePod("b", messages.PodReady, nil),
		samplePod("c", messages.PodNotReady, nil),
	}
	g.view.containers = []*messages.ContainerSnapshot{
		sampleContainer("1", "a", messages.ContainerRunning, map[string]string{"tier": "front", "app": "web"}),
		sampleContainer("2", "b", messages.ContainerRunning, map[string]string{"app": "web"}),
		sampleContainer("3", "b", messages.ContainerRunning, nil),
		sampleContainer("4", "b", messages.ContainerExited, nil),
		sampleContainer("5", "a", messages.ContainerCreated, nil),
		sampleContainer("6", "a", messages.ContainerRunning, nil), // ends while it is measured
	}
	g.view.images = []messages.Image{sampleImage()}
	g.meter.usages = map[string]messages.Usage{id("1"): usage(1, 10), id("2"): usage(2, 20), id("3"): usage(3, 30), id("5"): usage(5, 50), id("a"): usage(9, 90)}
	g.meter.disks = map[string]messages.DiskUsage{
		id("1"): {At: measuredAt.Add(-time.Minute), Bytes: messages.Measured(4096), Inodes: messages.Measured(2), Mountpoint: "/var/lib/troupe", Device: "/dev/sda1", Capacity: 77},
	}
	g.meter.networks = map[string]messages.NetworkUsage{id("a"): {At: measuredAt, Interfaces: []messages.InterfaceUsage{
		{Name: "eth0", RxBytes: 11, RxErrors: 1, TxBytes: 22, TxErrors: 2}, {Name: "net1", RxBytes: 33},
	}}}
	return g
}

func TestOnlyContainersThatRunAreListedAndOneThatEndsIsLeftOut(t *testing.T) {
	g := newMeasured(t)
	for name, x := range map[string]struct {
		filter *runtime.ContainerStatsFilter
		want   string
	}{
		"all":            {nil, "123"},
		"id":             {&runtime.ContainerStatsFilter{Id: id("2")}, "2"},
		"prefix of it":   {&runtime.ContainerStatsFilter{Id: "1"}, "1"},
		"pod":            {&runtime.ContainerStatsFilter{PodSandboxId: id("b")}, "23"},
		"label":          {&runtime.ContainerStatsFilter{LabelSelector: map[string]string{"app": "web"}}, "12"},
		"labels, all of": {&runtime.ContainerStatsFilter{LabelSelector: map[string]string{"app": "web", "tier": "front"}}, "1"},
		"all of all":     {&runtime.ContainerStatsFilter{PodSandboxId: id("b"), LabelSelector: map[string]string{"tier": "front"}}, ""},
		"exited":         {&runtime.ContainerStatsFilter{Id: id("4")}, ""},
		"nobody":         {&runtime.ContainerStatsFilter{Id: "ff"}, ""},
	} {
		r, err := g.rpc.ListContainerStats(within(t), &runtime.ListContainerStatsRequest{Filter: x.filter})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range r.Stats {
			got += s.Attributes.Id[:1]
		}
		if got != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

func TestAContainersStatsHoldWhatWasMeasuredAndNothingElse(t *testing.T) {
	g := newMeasured(t)
	r, err := g.rpc.ContainerStats(within(t), &runtime.ContainerStatsRequest{ContainerId: "1"})
	if err != nil {
		t.Fatal(err)
	}
	s := r.Stats
	if s.Attributes.Metadata.GetName() != "app" || s.Attributes.Annotations["note"] != "as given" || s.Attributes.Labels["tier"] != "front" {
		t.Errorf("attributes: %v", s.Attributes)
	}
	if s.Cpu.Timestamp != measuredAt.UnixNano() || s.Cpu.UsageCoreNanoSeconds.GetValue() != 1e9 || s.Cpu.UsageNanoCores.GetValue() != 1 || s.Cpu.Psi != nil {
		t.Errorf("cpu: %v", s.Cpu)
	}
	if s.Memory.WorkingSetBytes.GetValue() != 10<<20 || s.Memory.AvailableBytes != nil || s.Memory.PageFaults != nil || s.Io != nil {
		t.Errorf("memory: %v, io: %v", s.Memory, s.Io)
	}
	if s.Swap.GetSwapUsageBytes().GetValue() != 3 || s.Swap.SwapAvailableBytes != nil {
		t.Errorf("swap: %v", s.Swap)
	}
	if w := s.WritableLayer; w.GetUsedBytes().GetValue() != 4096 || w.InodesUsed.GetValue() != 2 || w.FsId.Mountpoint != "/var/lib/troupe" || w.Timestamp != measuredAt.Add(-time.Minute).UnixNano() {
		t.Errorf("writable layer: %v", w)
	}
}

func TestAContainerThatDoesNotRunHasStatsWithoutAProcess(t *testing.T) {
	g := newMeasured(t)
	for prefix, cpu := range map[string]bool{"4": false, "5": true, "6": false} { // exited, created, ends meanwhile
		r, err := g.rpc.ContainerStats(within(t), &runtime.ContainerStatsRequest{ContainerId: prefix})
		if err != nil || (r.Stats.Cpu != nil) != cpu || r.Stats.Attributes.Id != id(prefix) {
			t.Errorf("%s: %v, %v", prefix, r, err)
		}
	}
	_, err := g.rpc.ContainerStats(within(t), &runtime.ContainerStatsRequest{ContainerId: "ff"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("unknown: %v", err)
	}
	_, err = g.rpc.ContainerStats(within(t), &runtime.ContainerStatsRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("without an id: %v", err)
	}
}

func TestOneContainerThatCannotBeMeasuredDoesNotFailTheList(t *testing.T) {
	g := newMeasured(t)
	g.meter.failures = map[string]error{id("2"): errors.New("no permission")}
	r, err := g.rpc.ListContainerStats(within(t), &runtime.ListContainerStatsRequest{})
	if err != nil || len(r.Stats) != 2 || !strings.Contains(g.log.String(), "no permission") {
		t.Errorf("%v, %v; log: %s", r, err, g.log)
	}
	_, err = g.rpc.ListContainerStats(within(t), &runtime.ListContainerStatsRequest{Filter: &runtime.ContainerStatsFilter{Id: "2"}})
	if err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("when there is nothing else to answer: %v", err)
	}
}

func TestAPodsStatsAreItsCgroupsOrTheSumOfItsContainers(t *testing.T) {
	g := newMeasured(t)
	for prefix, want := range map[string]struct{ seconds, mib, processes, containers uint64 }{
		"a": {9, 90, 9, 1}, "b": {5, 50, 5, 2},
	} {
		r, err := g.rpc.PodSandboxStats(within(t), &runtime.PodSandboxStatsRequest{PodSandboxId: prefix})
		if err != nil {
			t.Fatal(err)
		}
		l := r.Stats.Linux
		if l.Cpu.UsageCoreNanoSeconds.GetValue() != want.seconds*1e9 || l.Memory.WorkingSetBytes.GetValue() != want.mib<<20 ||
			l.Process.ProcessCount.GetValue() != want.processes || uint64(len(l.Containers)) != want.containers || l.Cpu.Timestamp == 0 {
			t.Errorf("%s: %v", prefix, l)
		}
	}
	r, err := g.rpc.PodSandboxStats(within(t), &runtime.PodSandboxStatsRequest{PodSandboxId: "c"})
	if err != nil || r.Stats.Linux.Cpu != nil || r.Stats.Linux.Network != nil || r.Stats.Attributes.Metadata.GetUid() != "u1" {
		t.Errorf("a pod that is not ready: %v, %v", r, err)
	}
	if _, err := g.rpc.PodSandboxStats(within(t), &runtime.PodSandboxStatsRequest{PodSandboxId: "ff"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown: %v", err)
	}
}

func TestAPodsDefaultInterfaceIsNotAmongTheOthers(t *testing.T) {
	g := newMeasured(t)
	r, err := g.rpc.PodSandboxStats(within(t), &runtime.PodSandboxStatsRequest{PodSandboxId: "a"})
	if err != nil {
		t.Fatal(err)
	}
	n := r.Stats.Linux.Network
	if d := n.DefaultInterface; d.Name != "eth0" || d.RxBytes.Value != 11 || d.RxErrors.Value != 1 || d.TxBytes.Value != 22 || d.TxErrors.Value != 2 {
		t.Errorf("default: %v", d)
	}
	if len(n.Interfaces) != 1 || n.Interfaces[0].Name != "net1" || n.Timestamp != measuredAt.UnixNano() {
		t.Errorf("others: %v", n)
	}
}

func TestPodsAreListedWhileTheyLive(t *testing.T) {
	g := newMeasured(t)
	list := func(f *runtime.PodSandboxStatsFilter) (got string) {
		r, err := g.rpc.ListPodSandboxStats(within(t), &runtime.ListPodSandboxStatsRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Stats {
			got += s.Attributes.Id[:1]
		}
		return got
	}
	for got, want := range map[string]string{
		list(nil): "ab", list(&runtime.PodSandboxStatsFilter{Id: id("b")}): "b",
		list(&runtime.PodSandboxStatsFilter{LabelSelector: map[string]string{"app": "web"}}): "a",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	g.view.containers = append(g.view.containers, sampleContainer("7", "c", messages.ContainerRunning, nil))
	g.meter.usages[id("7")] = usage(7, 70)
	if got := list(nil); got != "abc" {
		t.Errorf("with a container that still runs in c: %q", got)
	}
}

func TestStreamsOfStatsAreTheListsInPieces(t *testing.T) {
	g := newMeasured(t, func(c *Config) { c.StreamBatch = 1 })
	containers, err := g.rpc.StreamContainerStats(within(t), &runtime.StreamContainerStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := g.rpc.StreamPodSandboxStats(within(t), &runtime.StreamPodSandboxStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := g.rpc.StreamPodSandboxMetrics(within(t), &runtime.StreamPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	count := func(next func() (int, error)) (total int) {
		for {
			n, err := next()
			if errors.Is(err, io.EOF) {
				return total
			}
			if err != nil || n != 1 {
				t.Fatalf("%d in a piece, %v", n, err)
			}
			total += n
		}
	}
	if got := []int{
		count(func() (int, error) { r, err := containers.Recv(); return len(r.GetContainerStats()), err }),
		count(func() (int, error) { r, err := pods.Recv(); return len(r.GetPodSandboxStats()), err }),
		count(func() (int, error) { r, err := metrics.Recv(); return len(r.GetPodSandboxMetrics()), err }),
	}; !slices.Equal(got, []int{3, 2, 2}) {
		t.Errorf("got %v", got)
	}
}

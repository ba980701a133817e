package stats

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const anID = "3fa94c1c0a2e4d5f8b7a6958473625140f1e2d3c4b5a69788796a5b4c3d2e1f0"

// recorded is a meter over files as kernels write them, with the cgroup of a
// container in them.
func recorded(t *testing.T, files map[string]string, controllers ...string) (*trees, place) {
	t.Helper()
	root := t.TempDir()
	trees := &trees{v1: map[string]tree{}, v2: &tree{at: filepath.Join(root, "unified"), root: "/"}, hugeOf: []string{"2MB", "1GB"}, devices: &devices{}}
	for _, c := range controllers {
		trees.v1[c] = tree{at: filepath.Join(root, c), root: "/"}
	}
	p := trees.ofPath("/kubepods/pod1/troupe-" + anID)
	for name, text := range files {
		dir := p.v2
		if c, file := filepath.Split(name); c != "" {
			dir, name = *p.of(filepath.Clean(c)), file
		}
		ok(t, os.MkdirAll(dir, 0o755))
		ok(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return trees, p
}

func measureRecorded(t *testing.T, trees *trees, p place) messages.Usage {
	t.Helper()
	u, err := (&Meter{trees: trees, now: time.Now}).measure(t.Context(), &reader{buf: make([]byte, 16)}, p, true)
	ok(t, err)
	return u
}

type amounts map[string]struct {
	got  messages.Amount
	want any // a number, or nil: not known
}

func (a amounts) check(t *testing.T) {
	t.Helper()
	for name, x := range a {
		want := messages.Amount{}
		if n, ok := x.want.(int); ok {
			want = messages.Measured(uint64(n))
		}
		if x.got != want {
			t.Errorf("%s: got %+v, want %+v", name, x.got, want)
		}
	}
}

func TestCgroupV2FilesAreRead(t *testing.T) {
	trees, p := recorded(t, map[string]string{
		"cpu.stat":            "usage_usec 2500001\nuser_usec 2000000\nsystem_usec 500001\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 40\nnr_throttled 7\nthrottled_usec 123456\nnr_bursts 0\nburst_usec 0\n",
		"cpu.max":             "20000 100000\n",
		"cpu.weight":          "39\n",
		"cpu.pressure":        "some avg10=1.25 avg60=0.50 avg300=0.10 total=4200\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1300\n",
		"memory.current":      "50331648\n",
		"memory.max":          "67108864\n",
		"memory.min":          "1048576\n",
		"memory.peak":         "60000000\n",
		"memory.swap.current": "4096\n",
		"memory.swap.max":     "8192\n",
		"memory.events":       "low 0\nhigh 2\nmax 5\noom 1\noom_kill 3\noom_group_kill 0\n",
		"memory.stat":         "anon 30000000\nfile 15000000\nkernel 3000000\nkernel_stack 16384\nshmem 0\nfile_mapped 400000\nfile_dirty 8192\nfile_writeback 0\nanon_thp 2097152\nfile_thp 0\nshmem_thp 0\ninactive_anon 20000000\nactive_anon 10000000\ninactive_file 10331648\nactive_file 4668352\nworkingset_refault_anon 1\nworkingset_refault_file 2\npgscan 30\npgsteal 20\npgfault 9000\npgmajfault 12\n",
		"io.stat":             "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=512 dios=1\n253:7 rbytes=10 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
		"io.pressure":         "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
		"pids.current":        "11\n", "pids.max": "max\n",
		"cgroup.procs":        "",
		"hugetlb.2MB.current": "4194304\n",
		"hugetlb.1GB.current": "0\n",
	})
	u := measureRecorded(t, trees, p)
	amounts{
		"cpu": {u.CPU.Time, 2500001000}, "user": {u.CPU.User, 2000000000}, "system": {u.CPU.System, 500001000},
		"periods": {u.CPU.Periods, 40}, "throttled": {u.CPU.ThrottledPeriods, 7}, "throttled time": {u.CPU.ThrottledTime, 123456000},
		"quota": {u.CPU.Quota, 20000}, "period": {u.CPU.Period, 100000}, "shares": {u.CPU.Shares, 998},
		"usage": {u.Memory.Current, 50331648}, "working set": {u.Memory.WorkingSet, 40000000}, "available": {u.Memory.Available, 27108864},
		"rss": {u.Memory.RSS, 30000000}, "cache": {u.Memory.Cache, 15000000}, "kernel": {u.Memory.Kernel, 3000000},
		"reservation": {u.Memory.Reservation, 1048576}, "peak": {u.Memory.Peak, 60000000}, "limit": {u.Memory.Limit, 67108864},
		"swap": {u.Memory.Swap, 4096}, "swap available": {u.Memory.SwapAvailable, 4096}, "swap limit": {u.Memory.SwapLimit, 8192},
		"failures": {u.Memory.Failures, 5}, "high": {u.Memory.HighEvents, 2}, "oom": {u.Memory.OOMKills, 3},
		"faults": {u.Memory.Faults, 9000}, "major": {u.Memory.MajorFaults, 12}, "thp": {u.Memory.AnonHuge, 2097152},
		"threads": {u.Processes.Threads, 11}, "threads max": {u.Processes.ThreadsMax, nil}, "processes": {u.Processes.Count, 0},
	}.check(t)
	if want := (messages.Pressure{Known: true, Some: messages.Stall{Avg10: 1.25, Avg60: 0.5, Avg300: 0.1, Total: 4200000}, Full: messages.Stall{Total: 1300000}}); u.CPU.Pressure != want {
		t.Errorf("cpu pressure %+v", u.CPU.Pressure)
	}
	if !u.IO.Pressure.Known || u.Memory.Pressure.Known {
		t.Errorf("pressure of io %+v, and of memory, which has no file: %+v", u.IO.Pressure, u.Memory.Pressure)
	}
	want := []messages.DeviceIO{
		{Major: 8, ReadBytes: 4096, WriteBytes: 8192, DiscardBytes: 512, Reads: 1, Writes: 2, Discards: 1},
		{Major: 253, Minor: 7, ReadBytes: 10, Reads: 1},
	}
	for i := range u.IO.Devices {
		u.IO.Devices[i].Device = "" // as this machine's /sys names them
	}
	if !reflect.DeepEqual(u.IO.Devices, want) {
		t.Errorf("devices %+v", u.IO.Devices)
	}
	if len(u.HugePages) != 2 || u.HugePages[0] != (messages.HugePageUsage{Size: "2MB", Bytes: 4194304, Max: 4194304}) {
		t.Errorf("huge pages %+v", u.HugePages)
	}
}

func TestCgroupV2WithoutLimits(t *testing.T) {
	trees, p := recorded(t, map[string]string{
		"cpu.stat": "usage_usec 1\nuser_usec 1\nsystem_usec 0\n", "cpu.max": "max 100000\n",
		"memory.stat": "anon 1\ninactive_file 99\n", "memory.current": "50\n", "memory.max": "max\n", "memory.swap.current": "0\n", "memory.swap.max": "max\n",
	})
	u := measureRecorded(t, trees, p)
	amounts{
		"quota": {u.CPU.Quota, nil}, "period": {u.CPU.Period, 100000}, "limit": {u.Memory.Limit, nil}, "available": {u.Memory.Available, nil},
		"swap": {u.Memory.Swap, 0}, "swap available": {u.Memory.SwapAvailable, nil},
		"working set, of files read one after the other": {u.Memory.WorkingSet, 0},
		"peak, which an old kernel does not have":        {u.Memory.Peak, nil},
	}.check(t)
}

// Files of Linux 6.18 with v1 controllers and the v2 tree beside them.
func TestCgroupV1FilesAreRead(t *testing.T) {
	trees, p := recorded(t, map[string]string{
		"cpuacct/cpuacct.usage": "123456789\n", "cpuacct/cpuacct.usage_user": "100000000\n", "cpuacct/cpuacct.usage_sys": "23456789\n",
		"cpu/cpu.stat":         "nr_periods 5\nnr_throttled 1\nthrottled_time 777\nnr_bursts 0\nburst_time 0\n",
		"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "cpu/cpu.shares": "512\n",
		"memory/memory.stat": "cache 1\nrss 2\nmapped_file 3\npgfault 70\npgmajfault 7\nswap 4\nhierarchical_memory_limit 67108864\nhierarchical_memsw_limit 100663296\n" +
			"total_cache 12738560\ntotal_rss 16297984\ntotal_mapped_file 7671808\ntotal_dirty 139264\ntotal_writeback 0\ntotal_swap 65536\ntotal_pgfault 111498\ntotal_pgmajfault 9\n" +
			"total_inactive_anon 11\ntotal_active_anon 1531904\ntotal_inactive_file 184320\ntotal_active_file 3469312\n",
		"memory/memory.usage_in_bytes": "30000000\n", "memory/memory.limit_in_bytes": "67108864\n", "memory/memory.memsw.limit_in_bytes": "100663296\n",
		"memory/memory.max_usage_in_bytes": "40000000\n", "memory/memory.kmem.usage_in_bytes": "2000\n", "memory/memory.failcnt": "3\n",
		"memory/memory.soft_limit_in_bytes":               "9223372036854771712\n",
		"memory/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:16 Read 4096\n8:16 Write 0\n8:16 Sync 4096\n8:16 Async 0\n8:16 Discard 0\n8:16 Total 4096\nTotal 4096\n",
		"blkio/blkio.throttle.io_serviced_recursive":      "8:16 Read 2\n8:16 Write 0\n8:16 Total 2\nTotal 2\n",
		"pids/pids.current":                               "3\n", "pids/pids.max": "100\n", "pids/cgroup.procs": "",
		"hugetlb/hugetlb.2MB.usage_in_bytes": "0\n", "hugetlb/hugetlb.2MB.max_usage_in_bytes": "2097152\n",
		"cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
	}, cpu, cpuacct, memory, pids, blkio, hugetlb)
	u := measureRecorded(t, trees, p)
	amounts{
		"cpu": {u.CPU.Time, 123456789}, "user": {u.CPU.User, 100000000}, "system": {u.CPU.System, 23456789},
		"periods": {u.CPU.Periods, 5}, "throttled": {u.CPU.ThrottledPeriods, 1}, "throttled time": {u.CPU.ThrottledTime, 777},
		"quota": {u.CPU.Quota, nil}, "period": {u.CPU.Period, 100000}, "shares": {u.CPU.Shares, 512},
		"usage": {u.Memory.Current, 30000000}, "working set": {u.Memory.WorkingSet, 29815680}, "available": {u.Memory.Available, 37293184},
		"rss": {u.Memory.RSS, 16297984}, "cache": {u.Memory.Cache, 12738560}, "mapped": {u.Memory.Mapped, 7671808}, "kernel": {u.Memory.Kernel, 2000},
		"peak": {u.Memory.Peak, 40000000}, "reservation": {u.Memory.Reservation, nil}, "failures": {u.Memory.Failures, 3}, "oom": {u.Memory.OOMKills, 2},
		"faults": {u.Memory.Faults, 111498}, "own faults": {u.Memory.OwnFaults, 70}, "major": {u.Memory.MajorFaults, 9}, "own major": {u.Memory.OwnMajorFaults, 7},
		"swap": {u.Memory.Swap, 65536}, "swap limit": {u.Memory.SwapLimit, 33554432}, "swap available": {u.Memory.SwapAvailable, 33488896},
		"threads": {u.Processes.Threads, 3}, "threads max": {u.Processes.ThreadsMax, 100},
	}.check(t)
	if !u.CPU.Pressure.Known || u.CPU.Pressure.Some.Total != 1000 {
		t.Errorf("pressure, from the v2 tree: %+v", u.CPU.Pressure)
	}
	if d := u.IO.Devices; len(d) != 1 || d[0].Major != 8 || d[0].Minor != 16 || d[0].ReadBytes != 4096 || d[0].Reads != 2 || d[0].WriteBytes != 0 {
		t.Errorf("devices %+v", d)
	}
	if h := u.HugePages; len(h) != 1 || h[0] != (messages.HugePageUsage{Size: "2MB", Max: 2097152}) {
		t.Errorf("huge pages %+v", h)
	}
}

func TestSwapThatIsNotAccountedIsNotZero(t *testing.T) {
	trees, p := recorded(t, map[string]string{
		"cpuacct/cpuacct.usage": "1\n", "memory/memory.usage_in_bytes": "1\n",
		"memory/memory.stat": "swap 0\nhierarchical_memory_limit 5\ntotal_swap 0\n",
	}, cpuacct, memory)
	if u := measureRecorded(t, trees, p); u.Memory.Swap.Known || u.Memory.SwapAvailable.Known {
		t.Errorf("with swapaccount=0: %+v", u.Memory.Swap)
	}
}

func TestTheCgroupOfAContainerIsFoundByItsID(t *testing.T) {
	all := map[string]tree{}
	for _, c := range controllers {
		all[c] = tree{at: "/cg/" + c, root: "/"}
	}
	v1 := &trees{v1: all, v2: &tree{at: "/cg/unified", root: "/"}}
	v2 := &trees{v1: map[string]tree{}, v2: &tree{at: "/cg", root: "/"}}
	nested := &trees{v1: map[string]tree{}, v2: &tree{at: "/cg", root: "/outer"}}
	for name, x := range map[string]struct {
		trees *trees
		text  string
		want  place
	}{
		"v2, cgroupfs":                     {v2, "0::/kubepods/pod1/troupe-" + anID + "\n", place{name: "/kubepods/pod1/troupe-" + anID, v2: "/cg/kubepods/pod1/troupe-" + anID}},
		"v2, systemd":                      {v2, "0::/kubepods.slice/troupe-" + anID + ".scope\n", place{name: "/kubepods.slice/troupe-" + anID + ".scope", v2: "/cg/kubepods.slice/troupe-" + anID + ".scope"}},
		"what a container made for itself": {v2, "0::/k/troupe-" + anID + "/init.scope\n", place{name: "/k/troupe-" + anID, v2: "/cg/k/troupe-" + anID}},
		"in a container":                   {nested, "0::/outer/troupe-" + anID + "\n", place{name: "/outer/troupe-" + anID, v2: "/cg/troupe-" + anID}},
		"hybrid, v2 not used": {
			v1, "9:name=systemd:/\n5:cpu,cpuacct:/a/" + anID + "\n4:memory:/a/" + anID + "\n3:pids:/\n0::/\n",
			place{name: "/a/" + anID, cpu: "/cg/cpu/a/" + anID, cpuacct: "/cg/cpuacct/a/" + anID, memory: "/cg/memory/a/" + anID},
		},
		"another process": {v2, "0::/kubepods/pod1/troupe-beef\n", place{}},
	} {
		if got := x.trees.parseCgroups([]byte(x.text), anID); got != x.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestAPodsCgroupIsItsOwnOnlyWhenItIsNamedAfterIt(t *testing.T) {
	const uid = "0c7b5a2e-1111-2222-3333-444455556666"
	for cgroup, want := range map[string]struct {
		path string
		own  bool
	}{
		"/kubepods/burstable/pod" + uid:                                    {"/kubepods/burstable/pod" + uid, true},
		"kubepods-burstable-pod0c7b5a2e_1111_2222_3333_444455556666.slice": {"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0c7b5a2e_1111_2222_3333_444455556666.slice", true},
		"/kubepods.slice/kubepods-pod" + uid + ".slice":                    {"/kubepods.slice/kubepods-pod" + uid + ".slice", true},
		"/troupe/pod-" + anID:                                              {"/troupe/pod-" + anID, true},
		"system.slice":                                                     {"/system.slice", false},
		"/shared":                                                          {"/shared", false},
	} {
		pod := &messages.PodSnapshot{ID: anID, Cgroup: cgroup, Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Uid: uid}}}
		if path, own := podCgroup(pod); path != want.path || own != want.own {
			t.Errorf("%s: %s, own: %v", cgroup, path, own)
		}
	}
}

func TestNetworkCountersAreReadWithThePodsInterfaceFirst(t *testing.T) {
	got := netDev([]byte(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:      99       9    0    0    0     0          0         0       99       9    0    0    0     0       0          0
  net1:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
  eth0:18446744073709551615 11 0 0    0     0          0         0        7       1    0    0    0     0       0          0
`))
	want := []messages.InterfaceUsage{
		{Name: "eth0", RxBytes: 1<<64 - 1, RxPackets: 11, TxBytes: 7, TxPackets: 1},
		{Name: "net1", RxBytes: 1000, RxPackets: 10, RxErrors: 1, RxDropped: 2, TxBytes: 2000, TxPackets: 20, TxErrors: 3, TxDropped: 4},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]messages.Amount{
		"0\n": messages.Measured(0), " 12 ": messages.Measured(12), "18446744073709551615": messages.Measured(1<<64 - 1),
		"max\n": {}, "-1\n": {}, "": {}, "1x": {}, "18446744073709551616": {}, "99999999999999999999999": {},
	} {
		if got := number([]byte(text)); got != want {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func TestTheLimitOfOpenFilesIsReadFromLimits(t *testing.T) {
	text := []byte("Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \nMax open files            1024                 524288               files     \n")
	if got := openFiles(text); got != messages.Measured(1024) {
		t.Errorf("got %+v", got)
	}
}

func TestHugePageSizesAreNamedAsInCgroupFiles(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB"} {
		ok(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	if got := hugePageSizes(dir); !reflect.DeepEqual(got, []string{"1GB", "2MB", "64KB"}) {
		t.Errorf("got %v", got)
	}
}

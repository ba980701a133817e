package bundles

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func destinations(spec *specs.Spec) []string {
	var all []string
	for _, m := range spec.Mounts {
		all = append(all, m.Destination)
	}
	return all
}

func TestEveryContainerHasTheDefaultMounts(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	spec, _ := written(t, b, r)
	equal(t, "mounts", destinations(spec), []string{
		"/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm", "/etc/resolv.conf", "/etc/hostname",
	})
	for _, at := range []string{"/sys", "/sys/fs/cgroup"} {
		if m := mountAt(spec, at); !slices.Contains(m.Options, "ro") || m.Type == "bind" {
			t.Errorf("%+v", m)
		}
	}
	r.Namespaces.IPC = ""
	if spec, _ := written(t, b, r); mountAt(spec, "/dev/mqueue") != nil {
		t.Error("mqueue of the node")
	}
}

func TestAMountOfTheCallerReplacesTheDefaultsItCovers(t *testing.T) {
	b := newTest(t, testNode(t))
	for at, gone := range map[string][]string{
		"/dev":        {"/dev/pts", "/dev/shm", "/dev/mqueue"},
		"/dev/shm/":   {},
		"/etc":        {"/etc/hostname", "/etc/resolv.conf"},
		"/sys":        {"/sys/fs/cgroup"},
		"/dev/shmell": {},
	} {
		r := request(t)
		source := t.TempDir()
		r.Config.Mounts = []*runtime.Mount{{ContainerPath: at, HostPath: source}}
		spec, _ := written(t, b, r)
		for _, d := range gone {
			if mountAt(spec, d) != nil {
				t.Errorf("%s: %s is still there", at, d)
			}
		}
		clean := filepath.Clean(at)
		count := 0
		for _, d := range destinations(spec) {
			if d == clean {
				count++
			}
		}
		if m := mountAt(spec, clean); count != 1 || m.Source != source {
			t.Errorf("%s: %d mounts, %+v", at, count, m)
		}
	}
}

func TestMountsAreMadeOuterBeforeInner(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	source := t.TempDir()
	for _, at := range []string{"/a/b/c", "/a", "/x/y", "/a/b"} {
		r.Config.Mounts = append(r.Config.Mounts, &runtime.Mount{ContainerPath: at, HostPath: source})
	}
	spec, _ := written(t, b, r)
	all := destinations(spec)
	equal(t, "order", all[len(all)-4:], []string{"/a", "/x/y", "/a/b", "/a/b/c"})
}

func TestMountOptionsSayWhatIsAskedFor(t *testing.T) {
	b := newTest(t, testNode(t))
	for name, c := range map[string]struct {
		m    *runtime.Mount
		want string
	}{
		"plain":     {&runtime.Mount{}, "rbind rprivate rw"},
		"read-only": {&runtime.Mount{Readonly: true}, "rbind rprivate ro"},
		"recursive": {&runtime.Mount{Readonly: true, RecursiveReadOnly: true}, "rbind rprivate ro rro"},
		"more":      {&runtime.Mount{MountOptions: []string{"noexec", "nosuid", "noatime"}}, "rbind rprivate rw noexec rnoexec nosuid rnosuid noatime"},
	} {
		r := request(t)
		c.m.ContainerPath, c.m.HostPath = "/data", t.TempDir()
		r.Config.Mounts = []*runtime.Mount{c.m}
		spec, _ := written(t, b, r)
		if got := strings.Join(mountAt(spec, "/data").Options, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestAMountThatCannotBeMadeIsRefused(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "file"), "x")
	bad := func(kind messages.Kind, m *runtime.Mount, words ...string) {
		t.Helper()
		r := request(t)
		if m.ContainerPath == "" {
			m.ContainerPath = "/data"
		}
		r.Config.Mounts = []*runtime.Mount{m}
		wantError(t, newTest(t, testNode(t)), r, kind, append(words, m.ContainerPath)...)
	}
	bad(messages.Invalid, &runtime.Mount{HostPath: dir + "/missing"}, "does not exist", dir+"/missing")
	bad(messages.Invalid, &runtime.Mount{HostPath: dir + "/file/x"}, "does not exist")
	bad(messages.Invalid, &runtime.Mount{HostPath: "relative"}, "host_path")
	bad(messages.Invalid, &runtime.Mount{HostPath: dir, ContainerPath: "/a/.."}, "container_path")
	bad(messages.Invalid, &runtime.Mount{HostPath: dir, Propagation: 8}, "propagation")
	bad(messages.Invalid, &runtime.Mount{HostPath: dir, RecursiveReadOnly: true}, "recursive_read_only")
	bad(messages.Invalid, &runtime.Mount{HostPath: dir, MountOptions: []string{"suid"}}, "mount_options")
	bad(messages.Internal, &runtime.Mount{Image: &runtime.ImageSpec{Image: "x"}}, "image x was not mounted")

	n := testNode(t)
	n.rro = false
	r := request(t)
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: dir, Readonly: true, RecursiveReadOnly: true}}
	wantError(t, newTest(t, n), r, messages.RROUnsupported, "/data")
}

func TestALinkAsSourceIsMountedAsWhatItPointsTo(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	real, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: link}}
	spec, _ := written(t, b, r)
	equal(t, "source", mountAt(spec, "/data").Source, real)
}

func TestPropagationNeedsAMountThatPropagates(t *testing.T) {
	b := newTest(t, testNode(t))
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	source := filepath.Join(dir, "below")
	put(t, filepath.Join(source, "x"), "")
	propagate := func(flags uintptr) {
		if err := unix.Mount("", dir, "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	propagate(unix.MS_PRIVATE)
	r := request(t)
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: source, Propagation: runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	wantError(t, b, r, messages.Invalid, "/data", source, "not on a shared mount")
	slave := request(t)
	slave.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: source, Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}}
	wantError(t, b, slave, messages.Invalid, "/data", source, "on a private mount")
	propagate(unix.MS_SHARED)
	if spec, _ := written(t, b, slave); !slices.Contains(mountAt(spec, "/data").Options, "rslave") || spec.Linux.RootfsPropagation != "rslave" {
		t.Errorf("%+v %q", mountAt(spec, "/data"), spec.Linux.RootfsPropagation)
	}
	spec, _ := written(t, b, r)
	if !slices.Contains(mountAt(spec, "/data").Options, "rshared") || spec.Linux.RootfsPropagation != "rshared" {
		t.Errorf("%+v %q", mountAt(spec, "/data"), spec.Linux.RootfsPropagation)
	}
}

// A look at a source that never ends is what a dead NFS or FUSE server does.
func TestASourceThatDoesNotAnswerHoldsNobody(t *testing.T) {
	b := newTest(t, testNode(t))
	release := make(chan struct{})
	defer close(release)
	looks := 0
	started := make(chan struct{})
	hang := func() (any, error) { looks++; close(started); <-release; return "/x", nil }
	go func() { _, _ = b.join(context.Background(), "look /mnt/dead", hang) }()
	<-started
	r := request(t)
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: "/mnt/dead"}}
	for range 3 { // retries join the first look
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := b.Write(ctx, r)
		cancel()
		if messages.KindOf(err) != messages.Deadline || !strings.Contains(err.Error(), "/data") || !strings.Contains(err.Error(), "/mnt/dead") {
			t.Errorf("kind %v: %v", messages.KindOf(err), err)
		}
	}
	if looks != 1 {
		t.Errorf("%d looks", looks)
	}
}

func TestDevicesAreTheNodesAndNoOthersAreAllowed(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) { c.AdditionalDevices = []string{"/dev/zero:/dev/nought:r"} })
	r := request(t)
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o640, int(unix.Mkdev(7, 3))); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "sub/readme"), "not a device")
	if err := os.Symlink(filepath.Join(dir, "disk"), filepath.Join(t.TempDir(), "link")); err != nil {
		t.Fatal(err)
	}
	r.Config.Devices = []*runtime.Device{
		{HostPath: "/dev/null", ContainerPath: "/dev/void", Permissions: "rw"},
		{HostPath: dir, ContainerPath: "/dev/disks"},
	}
	spec, _ := written(t, b, r)
	var got []string
	for _, d := range spec.Linux.Devices {
		got = append(got, d.Path+" "+d.Type)
	}
	equal(t, "devices", got, []string{"/dev/nought c", "/dev/void c", "/dev/disks/disk b"})
	rules := spec.Linux.Resources.Devices
	if rules[0].Allow || rules[0].Access != "rwm" || rules[0].Type != "" {
		t.Errorf("the first rule must deny all: %+v", rules[0])
	}
	last := rules[len(rules)-3:]
	for i, want := range []string{"c 1 5 r", "c 1 3 rw", "b 7 3 rwm"} {
		rule := last[i]
		if g := strings.Join([]string{rule.Type, strconv.FormatInt(*rule.Major, 10), strconv.FormatInt(*rule.Minor, 10), rule.Access}, " "); g != want || !rule.Allow {
			t.Errorf("rule %d: %s, want %s", i, g, want)
		}
	}
	for _, bad := range []*runtime.Device{
		{HostPath: "/dev/no-such", ContainerPath: "/dev/x"},
		{HostPath: "dev/null", ContainerPath: "/dev/x"},
		{HostPath: "/etc/hostname", ContainerPath: "/dev/x"},
		{HostPath: "/dev/null", Permissions: "rwx"},
	} {
		r := request(t)
		r.Config.Devices = []*runtime.Device{bad}
		wantError(t, b, r, messages.Invalid, "device")
	}
}

func TestResourcesAreTheRequestsInTheRuntimesWords(t *testing.T) {
	n := testNode(t)
	b := newTest(t, n)
	r := request(t)
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: -1, CpuShares: 512, CpusetCpus: "0-1", MemoryLimitInBytes: 64 << 20,
		HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2048KB", Limit: 4 << 20}, {PageSize: "1GB"}},
	}
	spec, _ := written(t, b, r)
	res := spec.Linux.Resources
	if *res.CPU.Period != 100000 || *res.CPU.Quota != -1 || *res.CPU.Shares != 512 || res.CPU.Cpus != "0-1" {
		t.Errorf("%+v", res.CPU)
	}
	if *res.Memory.Limit != 64<<20 || *res.Memory.Swap != 64<<20 || *res.Pids.Limit != 1024 {
		t.Errorf("%+v %+v", res.Memory, res.Pids)
	}
	equal(t, "hugepages", res.HugepageLimits, []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}})

	n.controllers, n.swap = []string{"memory"}, false
	b = newTest(t, n)
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 1 << 30, HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB"}}}
	spec, _ = written(t, b, r)
	if res := spec.Linux.Resources; res.CPU != nil || res.Memory.Swap != nil || res.Pids != nil || res.HugepageLimits != nil {
		t.Errorf("%+v", res)
	}
	for word, bad := range map[string]*runtime.LinuxContainerResources{
		"1GB": {HugepageLimits: []*runtime.HugepageLimit{{PageSize: "1GB", Limit: 1}}},
		"v1":  {Unified: map[string]string{"memory.high": "1"}},
	} {
		r := request(t)
		r.Config.Linux.Resources = bad
		wantError(t, b, r, messages.Invalid, word)
	}
	// A limit that no controller here can hold is left out, and the container starts.
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 1}}}
	if spec, _ := written(t, b, r); spec.Linux.Resources.HugepageLimits != nil {
		t.Errorf("%+v", spec.Linux.Resources.HugepageLimits)
	}
	n.unified = true
	for _, key := range []string{"memory", "../x.y", "memory/high.x", "cgroup.kill", "io.max", ""} {
		r := request(t)
		r.Config.Linux.Resources = &runtime.LinuxContainerResources{Unified: map[string]string{key: "1"}}
		wantError(t, newTest(t, n), r, messages.Invalid, "unified")
	}
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{Unified: map[string]string{"memory.high": "1"}}
	spec, _ = written(t, newTest(t, n), r)
	equal(t, "unified", spec.Linux.Resources.Unified, map[string]string{"memory.high": "1"})
}

func TestTheCgroupIsNamedInTheManagersForm(t *testing.T) {
	r := request(t)
	spec, _ := written(t, newTest(t, testNode(t)), r)
	equal(t, "cgroupfs", spec.Linux.CgroupsPath, "/kubepods/pod1/troupe-"+r.Container)
	systemd := newTest(t, testNode(t), func(c *Config) { c.CgroupManager = Systemd })
	for _, parent := range []string{"kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"} {
		r.CgroupParent = parent
		spec, _ := written(t, systemd, r)
		equal(t, "systemd", spec.Linux.CgroupsPath, "kubepods-pod1.slice:troupe:"+r.Container)
	}
	r = request(t)
	wantError(t, systemd, r, messages.Invalid, "cgroup_parent", "slice")
}

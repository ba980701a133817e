package bundles

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestAnImageIsMountedReadOnlyWhereItIsAskedFor(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	host := t.TempDir()
	r.Volumes.Images = []string{"/v/image-0", "/v/image-1/sub"}
	r.Config.Mounts = []*runtime.Mount{
		{ContainerPath: "/one", Image: &runtime.ImageSpec{Image: "a"}},
		{ContainerPath: "/host", HostPath: host},
		{ContainerPath: "/two", Image: &runtime.ImageSpec{Image: "b"}, ImageSubPath: "sub", MountOptions: []string{"noexec"}},
	}
	spec, _ := written(t, b, r)
	for at, source := range map[string]string{"/one": "/v/image-0", "/two": "/v/image-1/sub", "/host": host} {
		if m := mountAt(spec, at); m.Source != source {
			t.Errorf("%s is %s, want %s", at, m.Source, source)
		}
	}
	for at, want := range map[string][]string{"/one": {"ro", "nosuid", "nodev"}, "/two": {"ro", "noexec"}} {
		for _, o := range want {
			if !slices.Contains(mountAt(spec, at).Options, o) {
				t.Errorf("%s is not %s: %v", at, o, mountAt(spec, at).Options)
			}
		}
	}
}

func TestOfTwoMountsOnOnePathTheLaterIsMade(t *testing.T) {
	b := newTest(t, testNode(t))
	r := request(t)
	first, second := t.TempDir(), t.TempDir()
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/dev/termination-log", HostPath: first}, {ContainerPath: "/dev/./termination-log/", HostPath: second}}
	spec, _ := written(t, b, r)
	if m := mountAt(spec, "/dev/termination-log"); m.Source != second {
		t.Errorf("%+v", m)
	}
	equal(t, "mounts there", len(spec.Mounts), len(destinations(spec)))
	if n := strings.Count(strings.Join(destinations(spec), " "), "/dev/termination-log"); n != 1 {
		t.Errorf("%d mounts on one path", n)
	}
}

// CVE-2019-16884, CVE-2025-52881: a file system in place of /proc, or of a file
// in it, catches what the runtime writes there (LSM labels, sysctls).
func TestNothingFakeIsMountedOverProc(t *testing.T) {
	b := newTest(t, testNode(t))
	dir := t.TempDir()
	for _, at := range []string{"/proc", "/proc/self", "/proc/self/attr/exec", "/proc/sys", "/proc/sys/kernel/core_pattern", "/x/../proc/1", "/proc/./thread-self"} {
		r := request(t)
		r.Config.Mounts = []*runtime.Mount{{ContainerPath: at, HostPath: dir}}
		wantError(t, b, r, messages.Invalid, "/proc")
		r.Config.Mounts = []*runtime.Mount{{ContainerPath: at, Image: &runtime.ImageSpec{Image: "a"}}}
		r.Volumes.Images = []string{dir}
		wantError(t, b, r, messages.Invalid, "/proc")
	}
	for at, source := range map[string]string{"/proc": "/proc", "/proc/cpuinfo": "/etc/hostname", "/procession": dir} {
		r := request(t)
		r.Config.Mounts = []*runtime.Mount{{ContainerPath: at, HostPath: source}}
		if spec, _ := written(t, b, r); mountAt(spec, at).Source != source {
			t.Errorf("%s: %+v", at, mountAt(spec, at))
		}
	}
}

func TestAHandlerThatCannotMountRecursivelyReadOnlySaysSo(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) { c.Handlers = map[string]Handler{"old": {NoRecursiveReadOnly: true}} })
	r := request(t)
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/d", HostPath: t.TempDir(), Readonly: true, RecursiveReadOnly: true}}
	written(t, b, r)
	r = request(t)
	r.Handler = "old"
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/d", HostPath: t.TempDir(), Readonly: true, RecursiveReadOnly: true}}
	wantError(t, b, r, messages.RROUnsupported, "old", "/d")
}

func TestImageVolumesAreTreatedAsConfigured(t *testing.T) {
	for mode, want := range map[string]bool{"": true, "mkdir": true, "bind": false, "ignore": false} {
		b := newTest(t, testNode(t), func(c *Config) { c.ImageVolumes = mode })
		r := request(t)
		r.Image.Volumes = []string{"/data", "/var/../cache"}
		written(t, b, r)
		for _, dir := range []string{"data", "cache"} {
			info, err := os.Stat(filepath.Join(r.Rootfs, dir))
			if (err == nil) != want || want && info.Mode().Perm() != 0o755 {
				t.Errorf("%q: %s: %v", mode, dir, err)
			}
		}
	}
	b := newTest(t, testNode(t), func(c *Config) { c.ImageVolumes = "bind" })
	r := request(t)
	own := t.TempDir()
	r.Volumes.Anonymous = map[string]string{"/data": own, "/covered/x": own}
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/covered", HostPath: t.TempDir()}}
	spec, _ := written(t, b, r)
	if m := mountAt(spec, "/data"); m == nil || m.Source != own || mountAt(spec, "/covered/x") != nil {
		t.Errorf("%+v", spec.Mounts)
	}
}

func TestDevicesBelongToTheUserWhereTheNodeIsSetSo(t *testing.T) {
	for _, set := range []bool{true, false} {
		b := newTest(t, testNode(t), func(c *Config) { c.DeviceOwnership = set })
		r := request(t)
		sc(&r).RunAsUser, sc(&r).RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 44}
		r.Config.Devices = []*runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mine"}}
		spec, _ := written(t, b, r)
		d := spec.Linux.Devices[0]
		if *d.UID == 1000 != set || *d.GID == 44 != set {
			t.Errorf("set %v: %d:%d", set, *d.UID, *d.GID)
		}
	}
}

func TestAnAnnotationAsksOnlyForWhatTheNodeAllows(t *testing.T) {
	const annotation = "io.kubernetes.cri-o.Devices"
	allow := func(c *Config) {
		c.AllowedDevices = []string{"/dev/zero", "/dev/full"}
		c.Handlers = map[string]Handler{"open": {AllowedAnnotations: []string{annotation}}}
	}
	b := newTest(t, testNode(t), allow)
	r := request(t)
	r.PodConfig.Annotations = map[string]string{annotation: "/dev/zero:/dev/nought:r, /dev/full:rw"}
	spec, _ := written(t, b, r)
	if len(spec.Linux.Devices) != 0 {
		t.Errorf("a handler that does not allow it: %+v", spec.Linux.Devices)
	}
	r.Handler = "open"
	spec, _ = written(t, b, r)
	var got []string
	for _, d := range spec.Linux.Devices {
		got = append(got, d.Path)
	}
	equal(t, "devices", got, []string{"/dev/nought", "/dev/full"})
	r = request(t)
	r.Handler, r.PodConfig.Annotations = "open", map[string]string{annotation: "/dev/mem"}
	wantError(t, b, r, messages.Invalid, "/dev/mem", "allowed_devices")
}

func TestAPrivilegedContainerHasNoDevicesItDoesNotAskForWhereTheHandlerSaysSo(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) { c.Handlers = map[string]Handler{"bare": {PrivilegedWithoutHostDevices: true}} })
	r := request(t)
	privileged(&r)
	spec, _ := written(t, b, r)
	if len(spec.Linux.Devices) == 0 {
		t.Error("a privileged container has no devices")
	}
	r.Handler = "bare"
	r.Config.Devices = []*runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mine"}}
	spec, _ = written(t, b, r)
	if len(spec.Linux.Devices) != 1 || spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("%+v %+v", spec.Linux.Devices, spec.Linux.Resources.Devices[0])
	}
}

const cdiSpec = `cdiVersion: "0.6.0"
kind: "vendor.com/gpu"
devices:
- name: "0"
  containerEdits:
    env: ["GPU=0"]
    deviceNodes: [{path: "/dev/gpu0", hostPath: "/dev/null", permissions: "rw"}]
    mounts: [{hostPath: "/etc/hostname", containerPath: "/usr/lib/gpu.so", options: ["ro", "bind"]}]
    hooks: [{hookName: "createContainer", path: "/bin/true"}]
containerEdits:
  env: ["GPU_DRIVER=1"]
`

func TestCDIDevicesAreWhatTheNodesSpecsSay(t *testing.T) {
	dir := t.TempDir()
	b := newTest(t, testNode(t), func(c *Config) { c.CDISpecDirs = []string{dir} })
	ask := func(change func(*runtime.ContainerConfig)) (r *runtime.ContainerConfig, spec *specs.Spec) {
		req := request(t)
		change(req.Config)
		spec, _ = written(t, b, req)
		return req.Config, spec
	}
	byField := func(c *runtime.ContainerConfig) { c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/gpu=0"}} }
	r := request(t)
	byField(r.Config)
	wantError(t, b, r, messages.NotFound, "vendor.com/gpu=0", dir)
	put(t, filepath.Join(dir, "broken.yaml"), "kind: [")
	r = request(t)
	byField(r.Config)
	wantError(t, b, r, messages.NotFound, "broken.yaml")

	put(t, filepath.Join(dir, "vendor.yaml"), cdiSpec) // a plugin writes it while the daemon runs
	for _, change := range []func(*runtime.ContainerConfig){byField, func(c *runtime.ContainerConfig) {
		c.Annotations = map[string]string{"cdi.k8s.io/plugin_x": "vendor.com/gpu=0"}
	}} {
		_, spec := ask(change)
		if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/gpu0" || d[0].Minor != 3 {
			t.Errorf("%+v", d)
		}
		rules := spec.Linux.Resources.Devices
		if last := rules[len(rules)-1]; last.Access != "rw" || *last.Minor != 3 || !last.Allow {
			t.Errorf("%+v", last)
		}
		if m := mountAt(spec, "/usr/lib/gpu.so"); m == nil || m.Source != "/etc/hostname" {
			t.Errorf("%+v", m)
		}
		if !slices.Contains(spec.Process.Env, "GPU=0") || !slices.Contains(spec.Process.Env, "GPU_DRIVER=1") || len(spec.Hooks.CreateContainer) != 1 {
			t.Errorf("%v %+v", spec.Process.Env, spec.Hooks)
		}
	}
	for _, bad := range []string{"gpu", "vendor.com/gpu", "/dev/gpu0"} {
		r := request(t)
		r.Config.CDIDevices = []*runtime.CDIDevice{{Name: bad}}
		wantError(t, b, r, messages.Invalid, bad)
	}
	r = request(t)
	r.PodConfig.Annotations = map[string]string{"cdi.k8s.io/mine": "vendor.com/gpu=0"} // the user's
	if spec, _ := written(t, b, r); len(spec.Linux.Devices) > 0 {
		t.Error("a pod got a device by its own annotation")
	}
	r = request(t)
	byField(r.Config)
	wantError(t, newTest(t, testNode(t)), r, messages.Precondition, "cdi_spec_dirs")
}

func TestOCIHooksRunWhereTheirConditionsHold(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	hook := func(dir, name, when, path string) {
		put(t, filepath.Join(dir, name), `{"version":"1.0.0","hook":{"path":"`+path+`"},"when":`+when+`,"stages":["prestart","poststop"]}`)
	}
	hook(low, "a.json", `{"always":true}`, "/bin/false")
	hook(high, "a.json", `{"always":true}`, "/bin/true")
	hook(high, "b.json", `{"annotations":{"^io\\.trace$":".*"}}`, "/bin/echo")
	b := newTest(t, testNode(t), func(c *Config) { c.HooksDirs = []string{low, high, filepath.Join(low, "missing")} })
	paths := func(hooks []specs.Hook) (all []string) {
		for _, h := range hooks {
			all = append(all, h.Path)
		}
		return all
	}
	spec, _ := written(t, b, request(t))
	equal(t, "hooks", paths(spec.Hooks.CreateRuntime), []string{"/bin/true"})
	equal(t, "hooks after", paths(spec.Hooks.Poststop), []string{"/bin/true"})
	r := request(t)
	r.PodConfig.Annotations = map[string]string{"io.trace": "1", "other": "2", "run.oci.keep_original_groups": "1"}
	spec, _ = written(t, b, r)
	equal(t, "hooks", paths(spec.Hooks.CreateRuntime), []string{"/bin/true", "/bin/echo"})
	if spec.Annotations["io.trace"] != "1" || spec.Annotations["other"] != "" {
		t.Errorf("the hook is told %v", spec.Annotations)
	}
	hook(high, "c.json", `{"annotations":{".*":".*"}}`, "/bin/echo")
	if spec, _ = written(t, b, r); spec.Annotations["run.oci.keep_original_groups"] != "" {
		t.Error("a pod steers the runtime through a hook's pattern")
	}
	put(t, filepath.Join(high, "broken.json"), "{")
	if spec, _ = written(t, b, request(t)); len(spec.Hooks.CreateRuntime) != 1 {
		t.Errorf("with a broken file the hooks of before must hold: %+v", spec.Hooks)
	}
	if _, err := newOn(testNode(t), Config{Root: t.TempDir(), Log: quiet(), HooksDirs: []string{high}}); messages.KindOf(err) != messages.Invalid {
		t.Errorf("a broken hook at the start: %v", err)
	}
}

func TestVolumesAreRelabelledWhenTheContainerIsHeldByALabel(t *testing.T) {
	b := newTest(t, testNode(t), func(c *Config) {
		c.Handlers = map[string]Handler{"selinux": {AllowedAnnotations: []string{"io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel"}}}
	})
	r := request(t)
	r.Config.Mounts = []*runtime.Mount{
		{ContainerPath: "/a", HostPath: "/srv/a", SelinuxRelabel: true},
		{ContainerPath: "/b", HostPath: "/srv/b"},
		{ContainerPath: "/c", Image: &runtime.ImageSpec{Image: "x"}, SelinuxRelabel: true},
	}
	r.PodConfig.Annotations = map[string]string{"io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel": "true"}
	relabels := func(label string) []string {
		made := &bundle{Backend: b, r: r, sc: sc(&r)}
		made.relabel(label)
		var all []string
		for _, x := range made.Relabel {
			all = append(all, x.Path+" "+x.Label+map[bool]string{true: " if it differs"}[x.IfTopDiffers])
		}
		return all
	}
	equal(t, "relabels", relabels("l"), []string{"/srv/a l"})
	equal(t, "without a label", relabels(""), nil)
	r.Handler = "selinux"
	equal(t, "with the annotation", relabels("l"), []string{"/srv/a l if it differs"})
	sc(&r).SelinuxOptions = &runtime.SELinuxOption{Type: "spc_t"}
	equal(t, "a super-privileged one", relabels("l"), nil)
	sc(&r).SelinuxOptions = nil
	privileged(&r)
	equal(t, "a privileged one", relabels("l"), nil)
}

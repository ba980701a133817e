//lint:file-ignore SA1019 the deprecated fields of CRI are still understood

package bundles

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCapabilitiesAreAddedAndDroppedByName(t *testing.T) {
	n := testNode(t)
	b := newTest(t, n, func(c *Config) { c.DefaultCapabilities = []string{"CHOWN", "CAP_KILL"} })
	all := strings.Join(n.capabilities, " ")
	for name, c := range map[string]struct {
		add, drop, ambient []string
		want, wantAmbient  string
	}{
		"defaults":              {want: "CAP_CHOWN CAP_KILL"},
		"add":                   {add: []string{"net_raw", "CAP_CHOWN"}, want: "CAP_CHOWN CAP_KILL CAP_NET_RAW"},
		"drop":                  {drop: []string{"KILL"}, want: "CAP_CHOWN"},
		"drop all":              {drop: []string{"ALL"}, want: ""},
		"drop all, add one":     {add: []string{"NET_RAW"}, drop: []string{"all"}, want: "CAP_NET_RAW"},
		"add all":               {add: []string{"ALL"}, want: all},
		"add all, drop one":     {add: []string{"ALL"}, drop: []string{"CAP_CHOWN"}, want: strings.ReplaceAll(all, "CAP_CHOWN ", "")},
		"not ours to give":      {add: []string{"SYS_RESOURCE"}, want: "CAP_CHOWN CAP_KILL"},
		"ambient":               {ambient: []string{"NET_BIND_SERVICE"}, want: "CAP_CHOWN CAP_KILL CAP_NET_BIND_SERVICE", wantAmbient: "CAP_NET_BIND_SERVICE"},
		"ambient after drop":    {ambient: []string{"NET_RAW"}, drop: []string{"NET_RAW"}, want: "CAP_CHOWN CAP_KILL"},
		"ambient with drop all": {ambient: []string{"NET_RAW"}, drop: []string{"ALL"}, want: "CAP_NET_RAW", wantAmbient: "CAP_NET_RAW"},
	} {
		r := request(t)
		sc(&r).Capabilities = &runtime.Capability{AddCapabilities: c.add, DropCapabilities: c.drop, AddAmbientCapabilities: c.ambient}
		spec, _ := written(t, b, r)
		got := spec.Process.Capabilities
		for _, set := range [][]string{got.Bounding, got.Effective, got.Permitted} {
			if strings.Join(set, " ") != c.want {
				t.Errorf("%s: %v, want %s", name, set, c.want)
			}
		}
		if strings.Join(got.Ambient, " ") != c.wantAmbient || strings.Join(got.Inheritable, " ") != c.wantAmbient {
			t.Errorf("%s: ambient %v, inheritable %v, want %s", name, got.Ambient, got.Inheritable, c.wantAmbient)
		}
	}
	r := request(t)
	sc(&r).Capabilities = &runtime.Capability{DropCapabilities: []string{"SYS_ADMINS"}}
	wantError(t, b, r, messages.Invalid, "drop_capabilities", "SYS_ADMINS")
}

func TestAPrivilegedContainerHasWhatTheNodeHas(t *testing.T) {
	n := testNode(t)
	b := newTest(t, n)
	r := request(t)
	privileged(&r)
	sc(&r).Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "/no/such"}
	sc(&r).MaskedPaths = []string{"/proc/kcore"}
	spec, _ := written(t, b, r)
	equal(t, "bounding set", spec.Process.Capabilities.Bounding, n.capabilities)
	if spec.Linux.Seccomp != nil || len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) > 0 {
		t.Error("seccomp or masked paths")
	}
	equal(t, "device rules", spec.Linux.Resources.Devices, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}})
	if !slices.ContainsFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/null" && d.Major == 1 && d.Minor == 3 }) {
		t.Errorf("no /dev/null in %v", spec.Linux.Devices)
	}
	for _, d := range spec.Linux.Devices {
		if strings.HasPrefix(d.Path, "/dev/pts/") || d.Path == "/dev/console" || d.Path == "/dev/ptmx" {
			t.Errorf("%s is handed on", d.Path)
		}
	}
	for _, at := range []string{"/sys", "/sys/fs/cgroup"} {
		if m := mountAt(spec, at); !slices.Contains(m.Options, "rw") {
			t.Errorf("%s: %v", at, m.Options)
		}
	}
	r.PodConfig.Linux.SecurityContext.Privileged = false
	r.Pod, r.Container = r.Container, r.Pod
	wantError(t, b, r, messages.Invalid, "privileged")
}

func TestSeccompProfilesAreTheOnesAskedFor(t *testing.T) {
	dir := t.TempDir()
	own, node, broken := filepath.Join(dir, "own.json"), filepath.Join(dir, "node.json"), filepath.Join(dir, "broken.json")
	put(t, own, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`)
	put(t, node, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["reboot"],"action":"SCMP_ACT_ERRNO"}]}`)
	put(t, broken, `{"defaultAction":`)
	local := func(path string) *runtime.SecurityProfile {
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: path}
	}
	byNode := func(c *Config) { c.SeccompProfile, c.PrivilegedSeccompProfile = node, node }
	for name, c := range map[string]struct {
		field  *runtime.SecurityProfile
		text   string
		config func(*Config)
		want   string // a system call that is named, "default", or empty
	}{
		"nothing said":     {want: ""},
		"default":          {field: &runtime.SecurityProfile{}, want: "default"},
		"default of node":  {field: &runtime.SecurityProfile{}, config: byNode, want: "reboot"},
		"default unset":    {field: &runtime.SecurityProfile{}, config: func(c *Config) { c.SeccompProfile = "unconfined" }},
		"unconfined":       {field: &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined}, text: "runtime/default"},
		"localhost":        {field: local(own), want: "chmod"},
		"old default":      {text: "runtime/default", want: "default"},
		"old docker":       {text: "docker/default", want: "default"},
		"old localhost":    {text: "localhost/" + own, want: "chmod"},
		"old unconfined":   {text: "unconfined"},
		"field before old": {field: local(own), text: "unconfined", want: "chmod"},
	} {
		r := request(t)
		sc(&r).Seccomp, sc(&r).SeccompProfilePath = c.field, c.text
		if c.config == nil {
			c.config = func(*Config) {}
		}
		spec, _ := written(t, newTest(t, testNode(t), c.config), r)
		got := ""
		if s := spec.Linux.Seccomp; s != nil && len(s.Syscalls) > 10 {
			got = "default"
		} else if s != nil {
			got = s.Syscalls[0].Names[0]
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for _, bad := range []*runtime.SecurityProfile{local(broken), local("relative.json"), local(filepath.Join(dir, "none.json")), local(dir), {ProfileType: 9}} {
		r := request(t)
		sc(&r).Seccomp = bad
		wantError(t, newTest(t, testNode(t)), r, messages.Invalid, "seccomp")
	}
	r := request(t)
	sc(&r).SeccompProfilePath = "magic"
	wantError(t, newTest(t, testNode(t)), r, messages.Invalid, "seccomp_profile_path", "magic")
}

func TestTheDefaultProfileFollowsTheCapabilities(t *testing.T) {
	allows := func(add ...string) bool {
		r := request(t)
		sc(&r).Seccomp = &runtime.SecurityProfile{}
		sc(&r).Capabilities = &runtime.Capability{AddCapabilities: add}
		spec, _ := written(t, newTest(t, testNode(t)), r)
		return slices.ContainsFunc(spec.Linux.Seccomp.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, "sethostname")
		})
	}
	if allows() || !allows("SYS_ADMIN") {
		t.Error("sethostname must be allowed with CAP_SYS_ADMIN only")
	}
}

func TestAppArmorIsAskedForOnlyWhereItIs(t *testing.T) {
	b := newTest(t, testNode(t))
	for _, text := range []string{"", "runtime/default", "unconfined"} {
		r := request(t)
		sc(&r).ApparmorProfile = text
		if spec, _ := written(t, b, r); spec.Process.ApparmorProfile != "" {
			t.Error(spec.Process.ApparmorProfile)
		}
	}
	r := request(t)
	sc(&r).ApparmorProfile = "localhost/mine"
	wantError(t, b, r, messages.Invalid, "mine", "AppArmor is off")
	r = request(t)
	sc(&r).Apparmor = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "mine"}
	wantError(t, b, r, messages.Invalid, "mine", "AppArmor is off")
}

func TestWithoutAWordTheDefaultPathsAreMasked(t *testing.T) {
	b := newTest(t, testNode(t))
	spec, _ := written(t, b, request(t))
	if !slices.Contains(spec.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(spec.Linux.ReadonlyPaths, "/proc/sys") {
		t.Errorf("%v %v", spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths)
	}
	r := request(t)
	sc(&r).MaskedPaths, sc(&r).ReadonlyPaths = []string{"/bin/ls"}, []string{"/tmp"}
	sc(&r).NoNewPrivs, sc(&r).ReadonlyRootfs = true, true
	spec, _ = written(t, b, r)
	equal(t, "masked", spec.Linux.MaskedPaths, []string{"/bin/ls"})
	equal(t, "read-only", spec.Linux.ReadonlyPaths, []string{"/tmp"})
	if !spec.Process.NoNewPrivileges || !spec.Root.Readonly {
		t.Error("no_new_privs or readonly_rootfs is lost")
	}
}

func TestNamespacesAreThePodsByPath(t *testing.T) {
	b := newTest(t, testNode(t))
	mode := func(m runtime.NamespaceMode) *runtime.NamespaceOption { return &runtime.NamespaceOption{Pid: m} }
	for name, c := range map[string]struct {
		options *runtime.NamespaceOption
		want    string // of the PID namespace; "new", "none" or a path
	}{
		"the pod's choice": {nil, "new"},
		"container":        {mode(runtime.NamespaceMode_CONTAINER), "new"},
		"node":             {mode(runtime.NamespaceMode_NODE), "none"},
		"pod":              {mode(runtime.NamespaceMode_POD), "/proc/7/ns/pid"},
		"target":           {mode(runtime.NamespaceMode_TARGET), "/proc/8/ns/pid"},
	} {
		r := request(t)
		r.Namespaces.PID, r.TargetPIDNS = "/proc/7/ns/pid", "/proc/8/ns/pid"
		sc(&r).NamespaceOptions = c.options
		spec, _ := written(t, b, r)
		got := "none"
		if ns := namespaceOf(spec, specs.PIDNamespace); ns != nil {
			got = ns.Path
			if got == "" {
				got = "new"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		equal(t, "others", spec.Linux.Namespaces[:4], []specs.LinuxNamespace{
			{Type: "mount"}, {Type: "network", Path: "/run/ns/net"}, {Type: "ipc", Path: "/run/ns/ipc"}, {Type: "uts", Path: "/run/ns/uts"},
		})
	}
	for _, m := range []runtime.NamespaceMode{runtime.NamespaceMode_POD, runtime.NamespaceMode_TARGET} {
		r := request(t)
		sc(&r).NamespaceOptions = mode(m)
		wantError(t, b, r, messages.Precondition, "namespace_options.pid")
	}
}

func TestACgroupNamespaceIsMadeOnV2(t *testing.T) {
	n := testNode(t)
	n.unified = true
	b := newTest(t, n)
	r := request(t)
	if spec, _ := written(t, b, r); namespaceOf(spec, specs.CgroupNamespace) == nil {
		t.Error("none")
	}
	privileged(&r)
	if spec, _ := written(t, b, r); namespaceOf(spec, specs.CgroupNamespace) != nil {
		t.Error("one for a privileged container")
	}
}

package bundles

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// userRequest is a request of a pod with a user namespace of 65536 users.
func userRequest(t *testing.T) backends.BundleRequest {
	r := request(t)
	own := []*runtime.IDMapping{{HostId: 165536, Length: 65536}}
	options := podSC(&r).GetNamespaceOptions()
	if options == nil {
		options = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	}
	options.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: own, Gids: own}
	podSC(&r).NamespaceOptions = options
	r.Namespaces.User = "/run/troupe/ns/user/p"
	return r
}

func podSC(r *backends.BundleRequest) *runtime.LinuxSandboxSecurityContext {
	if r.PodConfig.Linux == nil {
		r.PodConfig.Linux = &runtime.LinuxPodSandboxConfig{}
	}
	if r.PodConfig.Linux.SecurityContext == nil {
		r.PodConfig.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{}
	}
	return r.PodConfig.Linux.SecurityContext
}

func TestAContainerIsInThePodsUserNamespace(t *testing.T) {
	b := newTest(t, testNode(t))
	r := userRequest(t)
	r.Config.Mounts = []*runtime.Mount{{
		ContainerPath: "/data", HostPath: t.TempDir(),
		UidMappings: []*runtime.IDMapping{{HostId: 165536, Length: 65536}}, GidMappings: []*runtime.IDMapping{{ContainerId: 1, HostId: 2, Length: 3}},
	}}
	spec, _ := written(t, b, r)
	if ns := namespaceOf(spec, specs.UserNamespace); ns == nil || ns.Path != r.Namespaces.User {
		t.Errorf("%+v", ns)
	}
	at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/data" })
	equal(t, "users of the volume", spec.Mounts[at].UIDMappings, []specs.LinuxIDMapping{{HostID: 165536, Size: 65536}})
	equal(t, "groups of the volume", spec.Mounts[at].GIDMappings, []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}})
	if len(spec.Linux.UIDMappings)+len(spec.Linux.GIDMappings) > 0 {
		t.Error("a mapping beside the path of a namespace: runtimes refuse both")
	}
}

func TestAContainerWithAnotherMappingThanItsPodsIsRefused(t *testing.T) {
	b := newTest(t, testNode(t))
	for name, asked := range map[string]*runtime.UserNamespace{
		"the node's": {Mode: runtime.NamespaceMode_NODE},
		"another":    {Uids: []*runtime.IDMapping{{HostId: 1, Length: 65536}}, Gids: []*runtime.IDMapping{{HostId: 165536, Length: 65536}}},
	} {
		r := userRequest(t)
		sc(&r).NamespaceOptions = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER, UsernsOptions: asked}
		t.Log(name)
		wantError(t, b, r, messages.Invalid, "userns_options", "not the same")
	}
	r := request(t)
	sc(&r).NamespaceOptions = &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER, UsernsOptions: &runtime.UserNamespace{
		Uids: []*runtime.IDMapping{{HostId: 1, Length: 1}}, Gids: []*runtime.IDMapping{{HostId: 1, Length: 1}},
	}}
	wantError(t, b, r, messages.Invalid, "userns_options", "not the same")
}

func TestUsersOutsideTheMappingAreRefused(t *testing.T) {
	b := newTest(t, testNode(t))
	r := userRequest(t)
	sc(&r).RunAsUser = &runtime.Int64Value{Value: 65536}
	wantError(t, b, r, messages.Invalid, "user 65536", "0 to 65535")
	r = userRequest(t)
	sc(&r).SupplementalGroups = []int64{70000}
	wantError(t, b, r, messages.Invalid, "group 70000", "0 to 65535")
}

func TestOnlyAUserNamespaceMayUnmaskProc(t *testing.T) {
	b := newTest(t, testNode(t))
	spec, _ := written(t, b, userRequest(t))
	if len(spec.Linux.MaskedPaths)+len(spec.Linux.ReadonlyPaths) > 0 {
		t.Errorf("with an empty list: %v %v", spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths)
	}
	r := userRequest(t)
	sc(&r).MaskedPaths, sc(&r).ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	spec, _ = written(t, b, r)
	equal(t, "masked as asked", spec.Linux.MaskedPaths, []string{"/proc/kcore"})
	r = userRequest(t)
	r.Config = nil
	spec, _ = written(t, b, r)
	equal(t, "the pause process's", spec.Linux.MaskedPaths, defaultMasked)
}

func TestWithTheNodesNetworkSysfsIsTheNodesReadOnlyToItsDepth(t *testing.T) {
	b := newTest(t, testNode(t))
	r := userRequest(t)
	r.Namespaces.Network = ""
	spec, _ := written(t, b, r)
	at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys" })
	m := spec.Mounts[at]
	if m.Type != "bind" || m.Source != "/sys" || !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "rro") {
		t.Errorf("%+v", m)
	}
}

func TestATerminalsGroupIsLeftOutWhereItIsNotMapped(t *testing.T) {
	b := newTest(t, testNode(t))
	r := userRequest(t)
	few := []*runtime.IDMapping{{HostId: 165536, Length: 5}}
	podSC(&r).NamespaceOptions.UsernsOptions.Gids = few
	sc(&r).RunAsUser = &runtime.Int64Value{Value: 3}
	spec, _ := written(t, b, r)
	at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
	if slices.Contains(spec.Mounts[at].Options, "gid=5") {
		t.Errorf("%v", spec.Mounts[at].Options)
	}
}

// The hole of CVE-2024-5154, with a change of owner on top: a directory is made
// through a link that leads out of the image.
func TestWhatIsMadeForTheContainersRootStaysInItsRoot(t *testing.T) {
	b := newTest(t, testNode(t))
	r := userRequest(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(r.Rootfs, "evil")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(r.Rootfs, outside), 0o755); err != nil { // where the link leads inside
		t.Fatal(err)
	}
	r.Config.WorkingDir = "/evil/work/dir"
	written(t, b, r)
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("made outside: %v", left)
	}
	var st unix.Stat_t
	if err := unix.Stat(outside, &st); err != nil || st.Uid != 0 {
		t.Errorf("it belongs to %d (%v)", st.Uid, err)
	}
	made := filepath.Join(r.Rootfs, outside, "work")
	if err := unix.Lstat(made, &st); err != nil || st.Uid != 165536 || st.Gid != 165536 {
		t.Errorf("%s: %v, belongs to %d:%d", made, err, st.Uid, st.Gid)
	}
	if err := unix.Lstat(filepath.Join(r.Rootfs, "etc"), &st); err != nil || st.Uid != 0 {
		t.Errorf("what the image had was given away: %v, %d", err, st.Uid)
	}
}

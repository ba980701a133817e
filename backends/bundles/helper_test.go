package bundles

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// testNode is a node that has everything; tests take something away.
func testNode(t *testing.T) node {
	t.Helper()
	n, err := readNode()
	if err != nil {
		t.Fatal(err)
	}
	n.hostname, n.oomFloor, n.swap, n.rro, n.seccomp = "the-node", -1000, true, true, true
	n.unified, n.apparmor, n.selinux = false, false, false
	n.controllers = []string{"cpu", "cpuset", "devices", "hugetlb", "memory", "pids"}
	n.capabilities = slices.DeleteFunc(slices.Clone(knownCapabilities), func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	n.hugepages = t.TempDir()
	if err := os.Mkdir(filepath.Join(n.hugepages, "hugepages-2048kB"), 0o755); err != nil {
		t.Fatal(err)
	}
	return n
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newTest(t *testing.T, n node, change ...func(*Config)) *Backend {
	t.Helper()
	c := Config{Root: t.TempDir(), Log: quiet(), PidsLimit: 1024, ApparmorProfile: "crio-default"}
	for _, f := range change {
		f(&c)
	}
	b, err := newOn(n, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n1234:x:77:77::/:\n"
	group  = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\nvideo:x:44:app\n"
)

// rootfs is a root file system with two users.
func rootfs(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put(t, filepath.Join(root, "etc/passwd"), passwd)
	put(t, filepath.Join(root, "etc/group"), group)
	return root
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// request is a plain container in a plain pod.
func request(t *testing.T) backends.BundleRequest {
	t.Helper()
	return backends.BundleRequest{
		Pod: conformance.ID(t), Container: conformance.ID(t), Rootfs: rootfs(t), CgroupParent: "/kubepods/pod1",
		PodConfig: &runtime.PodSandboxConfig{
			Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"}, Hostname: "web-host",
			LogDirectory: "/var/log/pods/web",
			Linux:        &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}}},
		},
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "c"}, Command: []string{"/bin/web"}, LogPath: "c/0.log",
			Linux: &runtime.LinuxContainerConfig{
				SecurityContext: &runtime.LinuxContainerSecurityContext{}, Resources: &runtime.LinuxContainerResources{},
			},
		},
		Namespaces: messages.Namespaces{Network: "/run/ns/net", IPC: "/run/ns/ipc", UTS: "/run/ns/uts"},
		Files:      backends.PodFiles{ResolvConf: "/f/resolv.conf", Hostname: "/f/hostname", Shm: "/f/shm"},
	}
}

func sc(r *backends.BundleRequest) *runtime.LinuxContainerSecurityContext {
	return r.Config.Linux.SecurityContext
}

func privileged(r *backends.BundleRequest) {
	sc(r).Privileged = true
	r.PodConfig.Linux.SecurityContext.Privileged = true
}

// written writes the bundle and reads the spec back.
func written(t *testing.T, b *Backend, r backends.BundleRequest) (*specs.Spec, backends.Bundle) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := b.Write(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(out.Dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	return &spec, out
}

func wantError(t *testing.T, b *Backend, r backends.BundleRequest, kind messages.Kind, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := b.Write(ctx, r)
	if err == nil {
		t.Fatalf("written, want an error with %q", words)
	}
	if messages.KindOf(err) != kind {
		t.Errorf("kind %v, want %v: %v", messages.KindOf(err), kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if _, err := os.Lstat(b.dir(r.Pod, r.Container)); err == nil {
		t.Error("the directory is left behind")
	}
}

func mountAt(spec *specs.Spec, destination string) *specs.Mount {
	for i := range spec.Mounts {
		if spec.Mounts[i].Destination == destination {
			return &spec.Mounts[i]
		}
	}
	return nil
}

func namespaceOf(spec *specs.Spec, kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range spec.Linux.Namespaces {
		if spec.Linux.Namespaces[i].Type == kind {
			return &spec.Linux.Namespaces[i]
		}
	}
	return nil
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

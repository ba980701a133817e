package checkpoints

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	pod       = strings.Repeat("a", 64)
	container = strings.Repeat("c", 64)
)

// lab is a backend whose containers have deleted one file.
func lab(t *testing.T) (*Backend, Config) {
	t.Helper()
	spec := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(spec, []byte(`{"ociVersion":"1.0.2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{
		Work: filepath.Join(t.TempDir(), "checkpoints"),
		Changes: func(_ context.Context, _, _, _ string, to io.Writer) ([]string, error) {
			_, err := io.WriteString(to, "a tar")
			return []string{"/etc/passwd"}, err
		},
		Spec: func(string, string) string { return spec },
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return b, c
}

func config(name string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: "busybox"}, Command: []string{"sleep"}, Args: []string{"1"},
		Envs: []*runtime.KeyValue{{Key: "A", Value: []byte("1")}}, Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{RunAsUser: &runtime.Int64Value{Value: 5}}},
	}
}

func request(archive, dir string) backends.CheckpointRequest {
	return backends.CheckpointRequest{
		Pod: pod, Archive: archive, Dir: dir, Handler: "h", PodConfig: &runtime.PodSandboxConfig{Hostname: "x"},
		Containers: []backends.CheckpointedContainer{{ID: container, Config: config("web"), Image: messages.Image{ID: "img", RepoTags: []string{"busybox:1"}}}},
	}
}

func begin(t *testing.T, b *Backend, r backends.CheckpointRequest) {
	t.Helper()
	dirs, err := b.Begin(t.Context(), r)
	if err != nil || len(dirs) != 1 {
		t.Fatalf("begin: %v, %v", dirs, err)
	}
	if err = os.MkdirAll(filepath.Join(dirs[0], "checkpoint"), 0o700); err == nil {
		err = os.WriteFile(filepath.Join(dirs[0], "checkpoint", "inventory.img"), []byte("criu's"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAnArchiveHasTheFilesThatOtherToolsLookFor(t *testing.T) {
	b, c := lab(t)
	to := filepath.Join(t.TempDir(), "one.tar")
	if err := os.WriteFile(to, []byte("an older one"), 0o644); err != nil {
		t.Fatal(err)
	}
	begin(t, b, request(to, ""))
	if err := b.Finish(t.Context(), request(to, "")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, _ := f.Stat(); info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v: memory may be read by others", info.Mode())
	}
	var in []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		in = append(in, h.Name)
	}
	want := []string{"checkpoint", "checkpoint/inventory.img", "config.dump", "deleted.files", "rootfs-diff.tar", "spec.dump"}
	if !slices.Equal(in, want) {
		t.Errorf("in it are %v, want %v", in, want)
	}
	if left := names(t, c.Work); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestACheckpointThatFailsLeavesNothingAndTheDirectoryToItsOwner(t *testing.T) {
	b, c := lab(t)
	dir := t.TempDir()
	begin(t, b, request("", dir))
	if err := b.Finish(t.Context(), request("", dir)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"pod.dump", "pod.options", "web.tar"}) {
		t.Fatalf("a whole one has %v", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, r := range []backends.CheckpointRequest{request("", t.TempDir()), request(filepath.Join(t.TempDir(), "a.tar"), "")} {
		begin(t, b, r)
		if err := b.Finish(ended, r); err == nil {
			t.Error("it goes on although its time is over")
		}
		for range 2 {
			if err := b.Discard(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		at := r.Dir
		if at == "" {
			at = filepath.Dir(r.Archive)
		}
		if left := append(names(t, at), names(t, c.Work)...); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestTheNextDaemonRemovesWhatTheLastLeftHalfDone(t *testing.T) {
	b, c := lab(t)
	dir := t.TempDir()
	begin(t, b, request("", dir))
	for _, f := range []string{"web.tar.partial", "other.tar", "pod.dump", "a file of somebody else"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := New(c); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a file of somebody else"}) {
		t.Errorf("there are %v", got)
	}
	if left := names(t, c.Work); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestARefusedPlaceIsLeftAsItIs(t *testing.T) {
	b, _ := lab(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "pod.dump"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, r := range []backends.CheckpointRequest{
		request("", full), request("", full+"/nosuch"), request("", link), request(full, ""), request("/nosuch/a.tar", ""), request(link, ""),
	} {
		if _, err := b.Begin(t.Context(), r); messages.KindOf(err) != messages.Invalid {
			t.Errorf("%s%s: %v", r.Archive, r.Dir, err)
		}
		if err := b.Discard(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, full); !slices.Equal(got, []string{"pod.dump"}) {
		t.Errorf("the caller's files are gone: %v", got)
	}
}

func TestACheckpointIsHeldAgainstWhatItIsToBecome(t *testing.T) {
	b, _ := lab(t)
	dir := t.TempDir()
	begin(t, b, request("", dir))
	if err := b.Finish(t.Context(), request("", dir)); err != nil {
		t.Fatal(err)
	}
	good := backends.RestoreRequest{Dir: dir, Handler: "h", Containers: []*runtime.ContainerConfig{config("web")}}
	if err := b.Check(t.Context(), good); err != nil {
		t.Errorf("what fits is refused: %v", err)
	}
	for what, spoil := range map[string]func(*backends.RestoreRequest){
		"no checkpoint":  func(r *backends.RestoreRequest) { r.Dir = t.TempDir() },
		"handler":        func(r *backends.RestoreRequest) { r.Handler = "other" },
		"one too many":   func(r *backends.RestoreRequest) { r.Containers = append(r.Containers, config("db")) },
		"one missing":    func(r *backends.RestoreRequest) { r.Containers = nil },
		"another name":   func(r *backends.RestoreRequest) { r.Containers[0].Metadata.Name = "db" },
		"another image":  func(r *backends.RestoreRequest) { r.Containers[0].Image.Image = "alpine" },
		"command":        func(r *backends.RestoreRequest) { r.Containers[0].Command = []string{"sh"} },
		"args":           func(r *backends.RestoreRequest) { r.Containers[0].Args = nil },
		"directory":      func(r *backends.RestoreRequest) { r.Containers[0].WorkingDir = "/x" },
		"an environment": func(r *backends.RestoreRequest) { r.Containers[0].Envs[0].Value = []byte("2") },
		"another user":   func(r *backends.RestoreRequest) { r.Containers[0].Linux.SecurityContext.RunAsUser.Value = 6 },
	} {
		r := good
		r.Containers = []*runtime.ContainerConfig{proto.Clone(good.Containers[0]).(*runtime.ContainerConfig)}
		spoil(&r)
		if err := b.Check(t.Context(), r); messages.KindOf(err) != messages.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
}

package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
)

// tools are podman and buildah of Debian on a store's directories, with
// configuration of the test's own.
type tools struct {
	t   *testing.T
	env []string
	cg  string
}

func toolsOn(t *testing.T, s *Store) tools {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/storage.conf", fmt.Appendf(nil, "[storage]\ndriver = 'overlay'\ngraphroot = %q\nrunroot = %q\n[storage.options.overlay]\nskip_mount_home = 'true'\n", s.cfg.GraphRoot, s.cfg.RunRoot))
	write(t, dir+"/containers.conf", fmt.Appendf(nil, `
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
netns = "none"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
tmp_dir = "%[1]s/tmp"
static_dir = "%[1]s/libpod"
volume_path = "%[1]s/volumes"
`, dir))
	tool := tools{t: t, cg: "/troupe-test-" + conformance.ID(t)[:12]}
	tool.env = append(os.Environ(), "CONTAINERS_CONF="+dir+"/containers.conf", "CONTAINERS_STORAGE_CONF="+dir+"/storage.conf",
		"CONTAINERS_REGISTRIES_CONF="+s.cfg.RegistriesConf, "TMPDIR="+dir)
	t.Cleanup(func() {
		tool.try("podman", "rm", "--all", "--force", "--time", "0")
		tool.try("buildah", "rm", "--all")
		for _, group := range []string{"/sys/fs/cgroup/*" + tool.cg, "/sys/fs/cgroup" + tool.cg} {
			left, _ := filepath.Glob(group)
			for _, dir := range left {
				removeSoon(t, dir)
			}
		}
	})
	return tool
}

// removeSoon removes a cgroup with those in it, once its last process has ended.
func removeSoon(t *testing.T, top string) {
	t.Helper()
	var err error
	for range 50 {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			err = os.Remove(dir)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error(err)
}

func (tool tools) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = tool.env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (tool tools) run(name string, args ...string) string {
	tool.t.Helper()
	out, err := tool.try(name, args...)
	if err != nil {
		tool.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// podman runs a container of an image and gives what it has said. (podman run
// without --detach waits 20 seconds more where nobody reaps its conmon.)
func (tool tools) podman(image string) (said string) {
	tool.t.Helper()
	id := tool.run("podman", "run", "--detach", "--security-opt", "apparmor=unconfined", "--cgroup-parent", tool.cg, image)
	for end := time.Now().Add(20 * time.Second); said == "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		said = tool.run("podman", "logs", id)
	}
	tool.run("podman", "rm", "--force", "--time", "0", id)
	return said
}

// runnable is an image with a shell, pushed as name:v.
func runnable(t *testing.T, reg *registry, name string) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	ok(t, err)
	layer := zipped(t, tarred(t, []entry{
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, body: string(busybox)},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/cat", Linkname: "busybox"}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "word", Mode: 0o644}, body: "lower"},
	}...))
	reg.push(t, spec{
		repo: name, tag: "v", layers: []packed{layer, layerWith(t, map[string][]byte{"word": []byte("upper")}, "zstd")},
		config: ispec.ImageConfig{Cmd: []string{"cat", "/word"}, Env: []string{"PATH=/bin"}},
	})
	return reg.addr + "/" + name + ":v"
}

func TestPodmanAndBuildahRunTheImagesWePulled(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	image := pull(t, s, ask(runnable(t, reg, "ours")))
	tool := toolsOn(t, s)
	if out := tool.run("podman", "images", "--no-trunc"); !strings.Contains(out, image.ID) || !strings.Contains(out, reg.addr+"/ours") {
		t.Errorf("podman images: %s", out)
	}
	if out := tool.podman(image.RepoTags[0]); out != "upper" {
		t.Errorf("podman run: %q", out)
	}
	container := tool.run("buildah", "from", "--pull-never", image.RepoTags[0])
	if out := tool.run("buildah", "run", "--isolation", "chroot", container, "cat", "/word"); out != "upper" {
		t.Errorf("buildah run: %q", out)
	}
}

func TestWeListAndMountWhatTheToolsBringAndItIsSound(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	base := pull(t, s, ask(runnable(t, reg, "ours")))
	tool := toolsOn(t, s)
	container := tool.run("buildah", "from", "--pull-never", base.RepoTags[0])
	tool.run("buildah", "run", "--isolation", "chroot", container, "sh", "-c", "busybox rm /bin/cat; echo -n built >/word; busybox mkdir -m 700 /d; busybox chown 5:6 /d")
	tool.run("buildah", "commit", container, "localhost/built:1")
	tool.run("podman", "pull", "--quiet", "--tls-verify=false", runnable(t, reg, "theirs"))
	all, err := s.List(context.Background())
	ok(t, err)
	for _, name := range []string{"localhost/built:1", reg.addr + "/theirs:v"} {
		i := slices.IndexFunc(all, func(image messages.Image) bool { return slices.Contains(image.RepoTags, name) })
		if i < 0 {
			t.Errorf("%s is not among %+v", name, all)
			continue
		}
		dirs, err := s.LayerDirs(context.Background(), all[i].ID)
		ok(t, err)
		if want := map[bool]string{true: "built", false: "upper"}[name == "localhost/built:1"]; read(t, dirs[0]+"/word") != want {
			t.Errorf("%s: its word is not %q", name, want)
		}
	}
	wantSound(t, s)
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	ok(t, err)
	return string(data)
}

func TestAnImageThatPodmanRemovesIsNotListedAnyMore(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	image := pull(t, s, ask(runnable(t, reg, "ours")))
	wantListed(t, s, image.ID)
	toolsOn(t, s).run("podman", "rmi", image.RepoTags[0])
	wantListed(t, s)
	wantNothing(t, s)
	if use, err := s.Usage(context.Background()); err != nil || use.UsedBytes+use.Inodes != 0 {
		t.Errorf("nothing is left, and its use is %+v, %v", use, err)
	}
	pull(t, s, ask(image.RepoTags[0]))
}

func TestAnImageOfTheirContainersIsNotRemovedUntilTheyAre(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	image := pull(t, s, ask(runnable(t, reg, "ours")))
	tool := toolsOn(t, s)
	for name, container := range map[string]func() (id string){
		"podman":  func() string { return tool.run("podman", "create", "--cgroup-parent", tool.cg, image.RepoTags[0]) },
		"buildah": func() string { return tool.run("buildah", "from", "--pull-never", image.RepoTags[0]) },
	} {
		id := container()
		err := s.Remove(context.Background(), image.ID)
		if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), "container of another tool") {
			t.Errorf("%s: error %v of kind %v", name, err, messages.KindOf(err))
		}
		wantListed(t, s, image.ID)
		tool.run(name, "rm", id)
	}
	ok(t, s.Remove(context.Background(), image.ID))
	wantNothing(t, s)
}

func TestPodmanRunsAnImageWhoseLayersWereReplaced(t *testing.T) {
	reg := startRegistry(t, registryOptions{})
	s := open(t, reg, nil)
	image := pull(t, s, ask(runnable(t, reg, "ours")))
	record, err := s.store.Image(image.ID)
	ok(t, err)
	ok(t, os.RemoveAll(filepath.Join(s.cfg.GraphRoot, "overlay", record.TopLayer))) // all of it
	tool := toolsOn(t, s)
	if out, err := tool.try("podman", "create", "--cgroup-parent", tool.cg, image.RepoTags[0]); err == nil || !strings.Contains(out, record.TopLayer) {
		t.Errorf("podman makes a container of half an image: %s", out)
	}
	pull(t, s, ask(image.RepoTags[0]))
	if out := tool.podman(image.RepoTags[0]); out != "upper" {
		t.Errorf("podman run: %q", out)
	}
}

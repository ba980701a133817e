package rootfs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/conformance"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

func TestConformance(t *testing.T) {
	conformance.Rootfs(t, func(t *testing.T) conformance.RootfsHarness {
		layers := layers(t, 3)
		image := conformance.ID(t)
		return conformance.RootfsHarness{Rootfs: open(t, tmpfs(t), image, layers), ImageID: image}
	})
}

func TestAContainerSeesTheUppermostLayerAndWritesOnlyToItsOwnDirectory(t *testing.T) {
	layers, image := layers(t, 3), conformance.ID(t)
	ok(t, os.Chmod(layers[0], 0o755))
	r := open(t, tmpfs(t), image, layers)
	pod, one, two := conformance.ID(t), conformance.ID(t), conformance.ID(t)
	a, b := mount(t, r, pod, one, image), mount(t, r, pod, two, image)
	if got := read(t, filepath.Join(a, "who")); got != "layer 0" {
		t.Errorf("who is %q", got)
	}
	for i := range layers {
		read(t, filepath.Join(a, fmt.Sprintf("only-%d", i)))
	}
	ok(t, os.WriteFile(filepath.Join(a, "who"), []byte("container"), 0o600))
	if got := read(t, filepath.Join(b, "who")); got != "layer 0" {
		t.Errorf("the other container sees %q", got)
	}
	if got := read(t, filepath.Join(layers[0], "who")); got != "layer 0" {
		t.Errorf("the layer has %q", got)
	}
	info, err := os.Stat(a)
	ok(t, err)
	if info.Mode().Perm() != 0o755 {
		t.Errorf("mode of / is %v, the image's is 0755", info.Mode())
	}
}

func TestAHundredLayersInDirectoriesWithColonsAreMounted(t *testing.T) {
	for name, mount := range map[string]func(overlay, string) error{"new": overlay.mountNew, "classic": overlay.mountClassic} {
		t.Run(name, func(t *testing.T) {
			dirs := layers(t, 100)
			target, upper, work := t.TempDir(), filepath.Join(filepath.Dir(dirs[0]), "u"), filepath.Join(filepath.Dir(dirs[0]), "w")
			ok(t, os.Mkdir(upper, 0o755))
			ok(t, os.Mkdir(work, 0o755))
			ok(t, mount(overlay{lowers: dirs, upper: upper, work: work, options: []string{"nodev"}}, target))
			t.Cleanup(func() { ok(t, unix.Unmount(target, 0)) })
			if got := read(t, filepath.Join(target, "who")); got != "layer 0" {
				t.Errorf("who is %q", got)
			}
			read(t, filepath.Join(target, "only-99"))
		})
	}
}

// An image may have as many layers as overlayfs takes, less one: an image that
// is a volume is mounted with an empty layer below (images.maxLayers).
func TestAsManyLayersAsAnImageMayHaveAreMounted(t *testing.T) {
	dirs := layers(t, 500)
	base := filepath.Dir(dirs[0])
	upper, work, target := filepath.Join(base, "u"), filepath.Join(base, "w"), t.TempDir()
	ok(t, os.Mkdir(upper, 0o755))
	ok(t, os.Mkdir(work, 0o755))
	for name, o := range map[string]overlay{
		"a container's root": {lowers: dirs[:499], upper: upper, work: work},
		"a volume":           {lowers: dirs, options: []string{"ro"}},
	} {
		t.Run(name, func(t *testing.T) {
			ok(t, o.mount(target))
			t.Cleanup(func() { ok(t, unix.Unmount(target, 0)) })
			if got := read(t, filepath.Join(target, "who")); got != "layer 0" {
				t.Errorf("who is %q", got)
			}
			read(t, filepath.Join(target, "only-498"))
		})
	}
	if err := (overlay{lowers: append(dirs, target), options: []string{"ro"}}).mount(target); err == nil {
		_ = unix.Unmount(target, 0)
		t.Error("501 layers were mounted: maxLayers can be raised")
	}
}

func TestAPathLongerThanTheKernelTakesIsMounted(t *testing.T) {
	base := filepath.Join(tmpfs(t), strings.Repeat("x", 200), strings.Repeat("y", 200))
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, base, image, layers)
	path := mount(t, r, conformance.ID(t), conformance.ID(t), image)
	ok(t, os.WriteFile(filepath.Join(path, "new"), nil, 0o600))
}

func TestTheMountIsPrivateAlsoBelowASharedOne(t *testing.T) {
	root := tmpfs(t)
	ok(t, unix.Mount("", root, "", unix.MS_SHARED, ""))
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, root, image, layers)
	path := mount(t, r, conformance.ID(t), conformance.ID(t), image)
	for line := range strings.SplitSeq(read(t, "/proc/self/mountinfo"), "\n") {
		if strings.Contains(line, path) && strings.Contains(line, "shared:") {
			t.Errorf("mount is shared: %s", line)
		}
	}
}

func TestAMountInUseIsDetachedAndSaysSo(t *testing.T) {
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, tmpfs(t), image, layers)
	var log bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	pod, c := conformance.ID(t), conformance.ID(t)
	path := mount(t, r, pod, c, image)
	user, err := os.Open(filepath.Join(path, "who"))
	ok(t, err)
	defer user.Close()
	ok(t, r.Unmount(context.Background(), pod, c))
	if !strings.Contains(log.String(), "detached") {
		t.Errorf("log: %q", log.String())
	}
	if held, err := r.Held(context.Background()); err != nil || len(held) > 0 {
		t.Errorf("held %v, error %v", held, err)
	}
}

func TestAnImmutableFileIsNamedAndTheNextTrySucceeds(t *testing.T) {
	root, err := os.MkdirTemp("/var/tmp", "troupe-rootfs-") // needs a file system with attributes
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, root, image, layers)
	pod, c := conformance.ID(t), conformance.ID(t)
	file := filepath.Join(mount(t, r, pod, c, image), "stuck")
	ok(t, os.WriteFile(file, nil, 0o600))
	p, err := r.place(pod, c)
	ok(t, err)
	if out, err := exec.Command("chattr", "+i", filepath.Join(p.upper, "stuck")).CombinedOutput(); err != nil {
		t.Fatalf("chattr: %v: %s", err, out)
	}
	err = r.Unmount(context.Background(), pod, c)
	if err == nil || !strings.Contains(err.Error(), "stuck") || !strings.Contains(err.Error(), "chattr") {
		t.Errorf("error %v", err)
	}
	if out, err := exec.Command("chattr", "-R", "-i", p.upper+gone).CombinedOutput(); err != nil {
		t.Fatalf("chattr: %v: %s", err, out)
	}
	ok(t, r.Unmount(context.Background(), pod, c))
}

func TestARootDirectoryOnOverlayIsRefusedWithAdvice(t *testing.T) {
	layers, image := layers(t, 1), conformance.ID(t)
	r := open(t, tmpfs(t), image, layers)
	inside := mount(t, r, conformance.ID(t), conformance.ID(t), image)
	_, err := New(Config{Root: filepath.Join(inside, "state"), Layers: r.cfg.Layers})
	if messages.KindOf(err) != messages.Precondition || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("error %v", err)
	}
}

func TestAMissingLayerIsNamedAndNothingIsLeft(t *testing.T) {
	image := conformance.ID(t)
	r := open(t, tmpfs(t), image, append(layers(t, 1), "/nowhere/diff"))
	pod := conformance.ID(t)
	_, err := r.Mount(context.Background(), backends.RootfsRequest{Pod: pod, Container: conformance.ID(t), ImageID: image})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/diff") {
		t.Errorf("error %v", err)
	}
	if held, err := r.Held(context.Background()); err != nil || len(held) > 0 {
		t.Errorf("held %v, error %v", held, err)
	}
}

// tmpfs is a small file system of the test's own: deletes are fast, and it can
// be written to by overlay whatever the machine's root is.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	ok(t, err)
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() {
		for range 50 {
			if unix.Unmount(dir, 0) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s stays mounted", dir)
	})
	return dir
}

func layers(t *testing.T, n int) []string {
	t.Helper()
	base := tmpfs(t)
	dirs := make([]string, n)
	for i := range dirs {
		dirs[i] = filepath.Join(base, fmt.Sprintf("layer:%d,with a long name", i))
		ok(t, os.Mkdir(dirs[i], 0o755))
		ok(t, os.WriteFile(filepath.Join(dirs[i], "who"), fmt.Appendf(nil, "layer %d", i), 0o600))
		ok(t, os.WriteFile(filepath.Join(dirs[i], fmt.Sprintf("only-%d", i)), nil, 0o600))
	}
	return dirs
}

func open(t *testing.T, root, image string, layers []string) *Rootfs {
	t.Helper()
	r, err := New(Config{Root: root, Layers: func(_ context.Context, id string) ([]string, error) {
		if id != image {
			return nil, messages.Errorf(messages.NotFound, "image %s is not there", id)
		}
		return layers, nil
	}})
	ok(t, err)
	t.Cleanup(func() {
		held, err := r.Held(context.Background())
		ok(t, err)
		for _, h := range held {
			ok(t, r.Drop(context.Background(), h))
		}
	})
	return r
}

func mount(t *testing.T, r *Rootfs, pod, container, image string) string {
	t.Helper()
	path, err := r.Mount(context.Background(), backends.RootfsRequest{Pod: pod, Container: container, ImageID: image})
	ok(t, err)
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	ok(t, err)
	return string(data)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// storage is the directory of the node's images.
func (n *node) storage() string { return n.lab.Path("node", "images") }

// check runs `troupe check`.
func (n *node) check(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := n.daemon.Command(append([]string{"check"}, args...)...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// files are the paths in the storage directory that match.
func (n *node) files(t *testing.T, pattern string) []string {
	t.Helper()
	return must(filepath.Glob(filepath.Join(n.storage(), pattern)))(t)
}

func (n *node) isListed(t *testing.T, ref string) bool {
	t.Helper()
	r, err := n.cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err)
	return r.Image != nil
}

func TestADamagedLayerIsFoundAndReplacedUnderARunningContainer(t *testing.T) {
	n := ownNode(t, nil)
	ref, _ := n.made(t, "damaged", harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Ballast: []int{200_000, 300_000}})
	n.run(t, "pull", ref)
	out, code := n.check(t)
	if code != 0 {
		t.Fatalf("a new store is not sound: %d %s", code, out)
	}
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	ballast := n.files(t, "overlay/*/diff/ballast-0")
	equal(t, "layers with the ballast", len(ballast), 1)
	before := must(os.ReadFile(ballast[0]))(t)
	ok(t, os.WriteFile(ballast[0], append([]byte("rot"), before[3:]...), 0o644))

	out, code = n.check(t)
	equal(t, "the exit code of check", code, 1)
	contains(t, "check", out, ref, "ballast-0")
	if n.isListed(t, ref) {
		t.Error("the damaged image is listed")
	}
	if !n.isListed(t, n.image) {
		t.Error("an image that does not have the layer is not listed")
	}
	equal(t, "the damaged file as the container sees it", c.exec(t, "head -c 3 /ballast-0"), "rot")
	equal(t, "another layer's file", c.exec(t, "wc -c </ballast-1"), "300000")

	out, code = n.check(t, "--repair")
	equal(t, "the exit code of the repair", code, 0)
	contains(t, "check --repair", out, ref+" pulled again")
	if !n.isListed(t, ref) {
		t.Error("the repaired image is not listed")
	}
	if after := must(os.ReadFile(ballast[0]))(t); !bytes.Equal(before, after) {
		t.Error("the layer is not what it was, at the place where it was")
	}
	equal(t, "the damaged file as the old container sees it", c.exec(t, "head -c 3 /ballast-0"), "rot")
	fresh := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Image.Image = ref; c.Metadata.Name = "fresh" })
	equal(t, "the file as a new container sees it", fresh.exec(t, "head -c 3 /ballast-0 | od -An -tx1 | tr -d ' '"), fmt.Sprintf("%x", before[:3]))
	if out, code := n.check(t); code != 0 {
		t.Errorf("after the repair: %d %s", code, out)
	}
}

func TestADaemonKilledInAPullLeavesOnlyWhatTheRetryGoesOnWith(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Insecure = append(o.Insecure, "127.0.0.0/8") })
	f := must(n.lab.StartFaulty(n.registry))(t)
	ref, _ := n.made(t, "killed", harness.ImageSpec{Ballast: []int{400_000, 500_000}})
	ref = strings.Replace(ref, n.registry.Host, f.Host, 1)
	records := func() string {
		return string(must(os.ReadFile(filepath.Join(n.storage(), "overlay-layers", "layers.json")))(t))
	}
	before, layers := records(), len(n.files(t, "overlay/*/diff"))

	f.Set(harness.Hang)
	pulling, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = n.cri.Image.PullImage(pulling, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}) // dies with the daemon
	}()
	eventually(t, "half of each ballast has come", func() bool {
		var sum int64
		for _, file := range n.files(t, "troupe-blobs/*.partial") {
			if info, err := os.Stat(file); err == nil {
				sum += info.Size()
			}
		}
		return sum > 450_000
	})
	ok(t, n.daemon.Kill())
	<-ended
	f.Set(harness.Healthy)
	ok(t, n.daemon.Start(t.Context()))

	eventually(t, "half-unpacked layers are removed", func() bool { return len(n.files(t, "troupe-staged/*")) == 0 })
	equal(t, "records of layers", records(), before)
	equal(t, "directories of layers", len(n.files(t, "overlay/*/diff")), layers)
	equal(t, "unfinished layers", len(n.files(t, "troupe-blobs/layers/*")), 0)
	partial := n.files(t, "troupe-blobs/*.partial")
	if len(partial) < 2 {
		t.Errorf("what had come is gone: %v", partial)
	}
	// Nobody has come back for it: it goes with the next start, or an hourly sweep.
	old := time.Now().Add(-24 * time.Hour)
	for _, file := range partial {
		ok(t, os.Chtimes(file, old, old))
	}
	ok(t, n.daemon.Stop())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "old partial blobs", len(n.files(t, "troupe-blobs/*.partial")), 0)
	n.run(t, "pull", ref)
	equal(t, "blobs after the pull", len(n.files(t, "troupe-blobs/*.partial"))+len(n.files(t, "troupe-staged/*")), 0)
	if out, code := n.check(t); code != 0 {
		t.Errorf("check: %d %s", code, out)
	}
}

func TestAPullThatCannotFitIsRefusedWithTheNumbers(t *testing.T) {
	lab := must(harness.NewLab())(t)
	t.Cleanup(func() { ok(t, lab.Close()) })
	disk := must(lab.NewDisk("small", 16))(t)
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Storage = disk.Dir })
	ref, img := n.made(t, "large", harness.ImageSpec{Ballast: []int{3_000_000, 3_000_001, 3_000_002}})
	var st syscall.Statfs_t
	ok(t, syscall.Statfs(disk.Dir, &st))
	free := int64(st.Bavail) * st.Bsize
	begun := time.Now()
	complaint := n.fails(t, "pull", ref)
	least := 0 // the blobs, and what is unpacked from them
	for _, layer := range img.LayerOrder {
		least += 2 * len(img.Blobs[layer])
	}
	contains(t, "the refusal", complaint, fmt.Sprintf("at least %d bytes", least), disk.Dir, "are free")
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	ok(t, syscall.Statfs(disk.Dir, &st))
	if now := int64(st.Bavail) * st.Bsize; now < free-100_000 {
		t.Errorf("%d bytes were free before the refused pull, %d after it", free, now)
	}
	fits, _ := n.made(t, "small", harness.ImageSpec{Ballast: []int{1_000_000}})
	n.run(t, "pull", fits)
}

func TestPodmanAndTheDaemonShareImagesAsTheyCome(t *testing.T) {
	n := ownNode(t, nil)
	dir := t.TempDir()
	conf := filepath.Join(dir, "storage.conf")
	ok(t, os.WriteFile(conf, fmt.Appendf(nil, "[storage]\ndriver = 'overlay'\ngraphroot = %q\nrunroot = %q\n[storage.options.overlay]\nskip_mount_home = 'true'\n",
		n.storage(), filepath.Join(n.daemon.Run, "images")), 0o600))
	tool := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+conf, "TMPDIR="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s (make setup installs it)", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	contains(t, "buildah images", tool("buildah", "images", "--no-trunc"), n.imageID)
	ref, img := n.made(t, "theirs", harness.ImageSpec{Cmd: []string{"sleep", "100000"}, Ballast: []int{100_000}})
	tool("buildah", "pull", "--tls-verify=false", ref)
	r, err := n.cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err)
	equal(t, "the id of the image that buildah has pulled", r.Image.GetId(), strings.TrimPrefix(img.ConfigID, "sha256:"))
	c := n.pod(t).start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	equal(t, "its file", c.exec(t, "wc -c </ballast-0"), "100000")
	n.run(t, "rm", "-f", c.id)

	working := tool("buildah", "from", "--pull-never", ref)
	refused(t, n.removeImage(t, ref), anyCode, "container of another tool")
	tool("buildah", "rm", working)
	tool("buildah", "rmi", ref)
	eventually(t, "the image that buildah has removed is not listed any more", func() bool { return !n.isListed(t, ref) })
	used := func() uint64 {
		t.Helper()
		r, err := n.cri.Image.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
		ok(t, err)
		return r.ImageFilesystems[0].InodesUsed.GetValue()
	}
	before := used()
	ok(t, n.daemon.Stop())
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the inodes in use after a restart", used(), before)
}

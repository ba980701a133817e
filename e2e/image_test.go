package e2e

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// made builds an image that no other test has and pushes it.
func (n *node) made(t *testing.T, name string, spec harness.ImageSpec) (ref string, img *harness.Image) {
	t.Helper()
	if spec.Labels == nil {
		spec.Labels = map[string]string{"made-for": t.Name()}
	}
	img = must(harness.BuildImage(spec))(t)
	return must(n.registry.Push(t.Context(), "lab/"+name, "1", img))(t), img
}

func (n *node) images(t *testing.T) []*runtime.Image {
	t.Helper()
	r, err := n.cri.Image.ListImages(t.Context(), &runtime.ListImagesRequest{})
	ok(t, err)
	return r.Images
}

func TestAnImageIsPulledListedInspectedAndRemoved(t *testing.T) {
	n := theNode(t)
	ref, img := n.made(t, "whole", harness.ImageSpec{User: "1000", Ballast: []int{300_000}})
	before := len(n.images(t))
	contains(t, "pull", n.run(t, "pull", ref), strings.TrimPrefix(img.ConfigID, "sha256:"))
	equal(t, "images", len(n.images(t)), before+1)
	byDigest := strings.TrimSuffix(ref, ":1") + "@" + img.Digest()
	n.run(t, "pull", byDigest)
	equal(t, "images after a pull by digest", len(n.images(t)), before+1)

	for _, name := range []string{ref, byDigest, img.ConfigID, strings.TrimPrefix(img.ConfigID, "sha256:")[:12]} {
		r, err := n.cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}})
		ok(t, err)
		if r.Image == nil {
			t.Fatalf("%s is not found", name)
		}
		equal(t, "the id of "+name, strings.TrimPrefix(r.Image.Id, "sha256:"), strings.TrimPrefix(img.ConfigID, "sha256:"))
		contains(t, "its tags and digests", strings.Join(append(r.Image.RepoTags, r.Image.RepoDigests...), " "), ref, byDigest)
		equal(t, "its user", r.Image.Uid.GetValue(), 1000)
		if r.Image.Size < 300_000 {
			t.Errorf("its size is %d, less than its content", r.Image.Size)
		}
	}
	contains(t, "crictl inspecti", n.run(t, "inspecti", ref), "made-for")
	n.run(t, "rmi", ref)
	equal(t, "images after rmi", len(n.images(t)), before)
	_, err := n.cri.Image.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err) // removing what is not there is a success
	r, err := n.cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	ok(t, err)
	if r.Image != nil {
		t.Errorf("a removed image still has a status: %v", r.Image)
	}
}

func TestManyPullsOfOneImageAtOnceAllSucceed(t *testing.T) {
	n := theNode(t)
	ref, img := n.made(t, "many", harness.ImageSpec{Ballast: []int{500_000, 500_001}})
	t.Cleanup(func() { n.run(t, "rmi", ref) })
	var wg sync.WaitGroup
	refs, errs := make([]string, 10), make([]error, 10)
	for i := range refs {
		wg.Go(func() {
			r, err := n.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
			refs[i], errs[i] = r.GetImageRef(), err
		})
	}
	wg.Wait()
	for i := range refs {
		ok(t, errs[i])
		contains(t, "the image a caller gets", refs[i], strings.TrimPrefix(img.ConfigID, "sha256:"))
	}
}

func TestTheImageFilesystemIsMeasured(t *testing.T) {
	n := theNode(t)
	r, err := n.cri.Image.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
	ok(t, err)
	if len(r.ImageFilesystems) != 1 || len(r.ContainerFilesystems) != 1 {
		t.Fatalf("one file system each is expected: %v", r)
	}
	fs := r.ImageFilesystems[0]
	if fs.UsedBytes.GetValue() < 1_000_000 || fs.InodesUsed.GetValue() == 0 || fs.Timestamp == 0 {
		t.Errorf("an image of a megabyte is stored, yet: %v", fs)
	}
	if !strings.HasPrefix(fs.FsId.GetMountpoint(), n.lab.Dir) {
		t.Errorf("the mount point is %q, want one in %s", fs.FsId.GetMountpoint(), n.lab.Dir)
	}
	n.pod(t).start(t, "dd if=/dev/zero of=/written bs=1M count=3; exec sleep 100000")
	eventually(t, "what a container writes is counted", func() bool {
		r, err := n.cri.Image.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
		ok(t, err)
		written := r.ContainerFilesystems[0]
		return written.UsedBytes.GetValue() >= 3<<20 && written.FsId.GetMountpoint() == n.daemon.Root
	})
	contains(t, "crictl imagefsinfo", n.run(t, "imagefsinfo"), "mountpoint")
}

func TestARegistryWithPasswords(t *testing.T) {
	lab := must(harness.NewLab())(t)
	t.Cleanup(func() { ok(t, lab.Close()) })
	closed := must(lab.StartRegistry(t.Context(), harness.RegistryOptions{Username: "kube", Password: "s3cret:with:colons"}))(t)
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Insecure = append(o.Insecure, closed.Host) })
	img := must(harness.BuildImage(harness.ImageSpec{Cmd: []string{"true"}}))(t)
	ref := must(closed.Push(t.Context(), "lab/private", "1", img))(t)

	pull := func(auth *runtime.AuthConfig) error {
		_, err := n.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}, Auth: auth})
		return err
	}
	refused(t, pull(nil), anyCode, "")
	refused(t, pull(&runtime.AuthConfig{Username: "kube", Password: "wrong"}), anyCode, "")
	ok(t, pull(&runtime.AuthConfig{Username: "kube", Password: "s3cret:with:colons"}))
	// Somebody else having pulled it gives no right to it.
	refused(t, pull(&runtime.AuthConfig{Username: "kube", Password: "wrong"}), anyCode, "")
	log := must(os.ReadFile(n.daemon.LogFile))(t)
	if strings.Contains(string(log), "s3cret") {
		t.Error("the password is in the daemon's log")
	}
}

func TestARegistryWithACertificate(t *testing.T) {
	n := ownNode(t, nil)
	secure := must(n.lab.StartRegistry(t.Context(), harness.RegistryOptions{TLS: true}))(t)
	img := must(harness.BuildImage(harness.ImageSpec{Cmd: []string{"true"}}))(t)
	ref := must(secure.Push(t.Context(), "lab/secure", "1", img))(t)
	contains(t, "the complaint about an unknown authority", n.fails(t, "pull", ref), "certificate")

	ca := must(os.ReadFile(secure.CA))(t)
	must(n.lab.Write(string(ca), "home", ".config", "containers", "certs.d", secure.Host, "ca.crt"))(t)
	n.run(t, "pull", ref)
}

func TestAnImageInUseIsNotRemoved(t *testing.T) {
	n := theNode(t)
	ref, _ := n.made(t, "used", harness.ImageSpec{Cmd: []string{"sleep", "100000"}})
	n.run(t, "pull", ref)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	refused(t, n.removeImage(t, ref), anyCode, "use")
	n.run(t, "rm", "-f", c.id)
	ok(t, n.removeImage(t, ref))
}

func (n *node) removeImage(t *testing.T, ref string) error {
	t.Helper()
	_, err := n.cri.Image.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	return err
}

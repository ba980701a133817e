package e2e

import (
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// artifact pushes an OCI artifact, unlike any other test's, and pulls it.
func (n *node) artifact(t *testing.T, name string) (ref, id string) {
	t.Helper()
	a := must(harness.BuildArtifact(
		harness.ArtifactFile{Title: "readme", Content: "about " + t.Name()},
		harness.ArtifactFile{Title: "model/weights", Content: "17"},
		harness.ArtifactFile{Title: "model/run", Content: "#!/bin/sh\necho ran"},
	))(t)
	ref = must(n.registry.Push(t.Context(), "lab/"+name, "1", a))(t)
	n.run(t, "pull", ref)
	t.Cleanup(func() { _ = n.removeImage(t, ref) })
	return ref, strings.TrimPrefix(a.Digest(), "sha256:")
}

func TestAnArtifactIsListedInspectedAndRemoved(t *testing.T) {
	n := theNode(t)
	before := len(n.images(t))
	ref, id := n.artifact(t, "listed")
	equal(t, "images with the artifact", len(n.images(t)), before+1)
	byDigest := strings.TrimSuffix(ref, ":1") + "@sha256:" + id
	for _, name := range []string{ref, byDigest, id, id[:12]} {
		r, err := n.cri.Image.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}})
		ok(t, err)
		equal(t, "the id of "+name, r.GetImage().GetId(), id)
		equal(t, "its tags", strings.Join(r.Image.RepoTags, " "), ref)
		equal(t, "its digests", strings.Join(r.Image.RepoDigests, " "), byDigest)
	}
	contains(t, "crictl images", n.run(t, "images"), "lab/listed")
	ok(t, n.removeImage(t, ref))
	ok(t, n.removeImage(t, ref))
	equal(t, "images without it", len(n.images(t)), before)
}

func TestAnArtifactIsMountedAsAVolume(t *testing.T) {
	n := theNode(t)
	ref, id := n.artifact(t, "mounted")
	p := n.pod(t)
	c := p.start(t, "cat /a/readme; echo; cat /part/weights; echo; touch /a/x 2>&1; echo x 2>&1 >/a/readme; /part/run 2>&1; cat /file; echo; id -u; exec sleep 100000",
		image(ref, "/a", ""), image(ref, "/part", "model"), image(ref, "/file", "model/weights"),
		func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000} // the files are for everybody
		})
	eventually(t, "it has printed all", func() bool { return strings.HasSuffix(c.log(t), "\n1000") })
	contains(t, "its log", c.log(t), "about "+t.Name()+"\n17\n", "touch: /a/x: Read-only file system", "/a/readme: Read-only file system", "/part/run: Permission denied", "denied\n17\n1000")
	for _, m := range c.status(t).Mounts {
		equal(t, "the image of "+m.ContainerPath, m.GetImage().GetImageRef(), id)
	}
	staysWhileMounted(t, n, c, ref, id)
}

func TestAnArtifactThatCannotBeMountedSaysSo(t *testing.T) {
	n := theNode(t)
	ref, _ := n.artifact(t, "refused")
	p := n.pod(t)
	_, err := p.createErr(t, image(ref, "/a", "model/absent"))
	refused(t, err, code(codes.Unknown), "desc = ImageVolumeMountFailed: ", "model/absent")
	_, err = p.createErr(t, image(ref, "/a", "../../etc"))
	refused(t, err, code(codes.InvalidArgument), "image_sub_path")
	_, err = p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = ref })
	refused(t, err, code(codes.FailedPrecondition), "OCI artifact", ref)
	ok(t, n.removeImage(t, ref)) // none of them holds it
}

func TestArtifactMountsCanBeOff(t *testing.T) {
	n := ownNode(t, func(o *harness.DaemonOptions) { o.Images = "oci_artifact_mount_support = false" })
	ref, _ := n.artifact(t, "off")
	_, err := n.pod(t).createErr(t, image(ref, "/a", ""))
	refused(t, err, code(codes.Unknown), "desc = ImageVolumeMountFailed: ", "oci_artifact_mount_support")
}

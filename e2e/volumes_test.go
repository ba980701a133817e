package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// models is an image to be mounted as a volume.
func (n *node) models(t *testing.T) (ref string) {
	t.Helper()
	ref, _ = n.made(t, "models", harness.ImageSpec{
		Files: map[string]string{"models/small/weights": "17", "models/run": "#!/bin/sh\necho ran"},
		Links: map[string]string{"models/host": "/etc"},
	})
	n.run(t, "pull", ref)
	t.Cleanup(func() { _ = n.removeImage(t, ref) })
	return ref
}

func image(ref, at, sub string, options ...string) func(*runtime.ContainerConfig) {
	return mount(&runtime.Mount{ContainerPath: at, Image: &runtime.ImageSpec{Image: ref}, ImageSubPath: sub, Readonly: true, MountOptions: options})
}

// staysWhileMounted checks that an image that is c's /part cannot be removed by
// any of its names, also when the daemon has forgotten all, but goes after c.
func staysWhileMounted(t *testing.T, n *node, c *container, ref, other string) {
	t.Helper()
	refused(t, n.removeImage(t, ref), code(codes.FailedPrecondition), c.id)
	ok(t, n.daemon.Kill())
	ok(t, n.daemon.Start(t.Context()))
	refused(t, n.removeImage(t, other), code(codes.FailedPrecondition), c.id)
	equal(t, "the file after a restart of the daemon", c.exec(t, "cat /part/weights"), "17")
	n.run(t, "rm", "-f", c.id)
	ok(t, n.removeImage(t, ref))
}

func TestAnImageIsMountedAsAVolume(t *testing.T) {
	n := theNode(t)
	ref := n.models(t)
	p := n.pod(t)
	c := p.start(t, "cat /m/models/small/weights; echo; cat /part/weights; echo; touch /m/x 2>&1; /m/models/run; exec sleep 100000",
		image(ref, "/m", ""), image(ref, "/part", "models/small"))
	eventually(t, "it has printed all", func() bool { return strings.Contains(c.log(t), "ran") })
	contains(t, "its log", c.log(t), "17\n17\n", "Read-only file system", "ran")
	for _, m := range c.status(t).Mounts {
		if m.Image.GetImage() != ref || m.HostPath != "" {
			t.Errorf("its status shows %+v", m)
		}
	}
	staysWhileMounted(t, n, c, ref, ref)
}

func TestAnImageVolumeThatCannotBeMountedSaysSoInTheKubeletsWords(t *testing.T) {
	n := theNode(t)
	ref := n.models(t)
	p := n.pod(t)
	for _, bad := range []struct{ ref, sub, complaint string }{
		{ref, "models/large", "models/large"}, {"registry.local/none:1", "", "registry.local/none:1"}, {ref, "models/host/hostname", "does not exist"},
	} {
		_, err := p.createErr(t, image(bad.ref, "/m", bad.sub))
		refused(t, err, code(codes.Unknown), "desc = ImageVolumeMountFailed: ", bad.complaint)
	}
	_, err := p.createErr(t, image(ref, "/m", "../../etc"))
	refused(t, err, code(codes.InvalidArgument), "image_sub_path")
	_, err = p.createErr(t, image(ref, "/m", "", "suid"))
	refused(t, err, code(codes.InvalidArgument), "mount_options")
}

// The options hold also for what is mounted below the source.
func TestMountOptionsHoldForTheWholeMount(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, map[string]string{"run": "#!/bin/sh\necho ran top"})
	inner := filepath.Join(dir, "inner")
	ok(t, os.Mkdir(inner, 0o755))
	ok(t, unix.Mount("tmpfs", inner, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(inner, unix.MNT_DETACH) })
	ok(t, os.WriteFile(filepath.Join(inner, "run"), []byte("#!/bin/sh\necho ran inner"), 0o755))
	ok(t, os.Chmod(filepath.Join(dir, "run"), 0o755))
	command := "/d/run 2>&1; /d/inner/run 2>&1; grep ' /d' /proc/self/mountinfo"
	out := p.output(t, command, mount(&runtime.Mount{HostPath: dir, ContainerPath: "/d", MountOptions: []string{"noexec", "nodev", "nosuid"}}))
	if strings.Contains(out, "ran") {
		t.Errorf("a program ran on a noexec mount:\n%s", out)
	}
	for _, at := range []string{" /d ", " /d/inner "} {
		for _, line := range strings.Split(out, "\n") {
			if strings.Contains(line, at) {
				contains(t, at, line, "noexec", "nosuid", "nodev")
			}
		}
	}
	contains(t, "without options", p.output(t, command, mount(&runtime.Mount{HostPath: dir, ContainerPath: "/d"})), "ran top", "ran inner")

	r, err := n.cri.Runtime.Status(t.Context(), &runtime.StatusRequest{})
	ok(t, err)
	if !r.Features.MountOptions {
		t.Error("Status does not say that mount options are supported")
	}
}

func TestRecursiveReadOnlyReachesMountsBelow(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, nil)
	inner := filepath.Join(dir, "inner")
	ok(t, os.Mkdir(inner, 0o755))
	ok(t, unix.Mount("tmpfs", inner, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(inner, unix.MNT_DETACH) })
	m := &runtime.Mount{HostPath: dir, ContainerPath: "/d", Readonly: true}
	equal(t, "plain read-only", p.output(t, "touch /d/inner/x && echo written", mount(m)), "written")
	m.RecursiveReadOnly = true
	contains(t, "recursive", p.output(t, "touch /d/inner/y 2>&1", mount(m)), "Read-only file system")
}

func TestHostToContainerPropagationNeedsAMountThatPropagates(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, nil)
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ok(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	_, err := p.createErr(t, mount(&runtime.Mount{HostPath: dir, ContainerPath: "/d", Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}))
	refused(t, err, code(codes.InvalidArgument), dir, "private")
}

func TestVOLUMEsOfAnImage(t *testing.T) {
	spec := harness.ImageSpec{Volumes: []string{"/data", "/fresh", "/escape/../../../../x"}, Files: map[string]string{"data/seed": "from the image"}}
	for mode, want := range map[string]string{"mkdir": "overlay", "bind": "own"} {
		t.Run(mode, func(t *testing.T) {
			n := ownNode(t, func(o *harness.DaemonOptions) { o.Images = fmt.Sprintf("image_volumes = %q", mode) })
			n.leavesNothing(t)
			ref, _ := n.made(t, "volumes", spec)
			n.run(t, "pull", ref)
			p := n.pod(t)
			out := p.output(t, "cat /data/seed; echo; touch /data/new /fresh/new && ls /data; grep -q ' /data ' /proc/self/mountinfo && echo own || echo overlay",
				func(c *runtime.ContainerConfig) { c.Image.Image = ref })
			contains(t, "its log", out, "from the image\nnew\nseed", want)
		})
	}
}

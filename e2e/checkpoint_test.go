package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criuWorks: CRIU depends on the kernel. Where it does not work (Debian 12's on
// Linux 6.18 fails at the vDSO), everything up to it is tested.
func criuWorks() bool { return exec.Command("criu", "check").Run() == nil }

// ticks is a command that prints without end.
const ticks = "while :; do echo tick; sleep 0.05; done"

// goesOn waits for more output.
func goesOn(t *testing.T, c *container) {
	t.Helper()
	before := len(c.log(t))
	eventually(t, "the container runs on", func() bool { return len(c.log(t)) > before })
}

func archived(t *testing.T, path string) (names []string) {
	t.Helper()
	f := must(os.Open(path))(t)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		ok(t, err)
		names = append(names, h.Name)
	}
}

func TestACheckpointOfAContainerIsAnArchiveOrNothing(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "echo data > /new; rm /etc/passwd; "+ticks)
	goesOn(t, c)
	dir := must(n.lab.Mkdir("checkpoints", p.id))(t)
	location := filepath.Join(dir, "one.tar")
	if criuWorks() {
		n.run(t, "checkpoint", "--export", location, c.id)
		names := archived(t, location)
		for _, want := range []string{"config.dump", "spec.dump", "rootfs-diff.tar", "deleted.files", "dump.log", "checkpoint/inventory.img"} {
			if !slices.Contains(names, want) {
				t.Errorf("the archive has no %s: %v", want, names)
			}
		}
		equal(t, "its mode", must(os.Stat(location))(t).Mode().Perm(), 0o600)
	} else {
		contains(t, "the error", n.fails(t, "checkpoint", "--export", location, c.id), "FailedPrecondition", "criu")
		equal(t, "files left", len(must(os.ReadDir(dir))(t)), 0)
	}
	goesOn(t, c)
	equal(t, "its state", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
}

func (n *node) checkpointPod(t *testing.T, r *runtime.CheckpointPodRequest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := n.cri.Runtime.CheckpointPod(ctx, r)
	return err
}

func TestACheckpointOfAPodLeavesItRunningAndIsWholeOrNotThere(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	one, two := p.start(t, ticks), p.start(t, ticks)
	dir := must(n.lab.Mkdir("checkpoints", "pod-"+p.id))(t)
	all := []string{one.id, two.id}
	err := n.checkpointPod(t, &runtime.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: dir, ContainerIds: all})
	if criuWorks() {
		ok(t, err)
		equal(t, "files", len(must(os.ReadDir(dir))(t)), 4) // two archives, pod.options, pod.dump
	} else {
		refused(t, err, code(codes.FailedPrecondition), "criu")
		equal(t, "files left", len(must(os.ReadDir(dir))(t)), 0)
	}
	goesOn(t, one)
	goesOn(t, two)

	full := must(n.lab.Mkdir("checkpoints", "full-"+p.id))(t)
	must(n.lab.Write("mine", "checkpoints", "full-"+p.id, "file"))(t)
	empty := must(n.lab.Mkdir("checkpoints", "empty-"+p.id))(t)
	other := n.pod(t).start(t, ticks)
	for _, r := range []struct {
		request *runtime.CheckpointPodRequest
		code    codes.Code
		words   string
	}{
		{&runtime.CheckpointPodRequest{OutputPath: full, ContainerIds: all}, codes.InvalidArgument, "must be empty"},
		{&runtime.CheckpointPodRequest{OutputPath: empty + "/nosuch", ContainerIds: all}, codes.InvalidArgument, "existing"},
		{&runtime.CheckpointPodRequest{OutputPath: "relative", ContainerIds: all}, codes.InvalidArgument, "absolute"},
		{&runtime.CheckpointPodRequest{OutputPath: empty}, codes.InvalidArgument, "container_ids"},
		{&runtime.CheckpointPodRequest{OutputPath: empty, ContainerIds: []string{one.id, one.id}}, codes.InvalidArgument, "twice"},
		{&runtime.CheckpointPodRequest{OutputPath: empty, ContainerIds: []string{one.id}}, codes.FailedPrecondition, two.id},
		{&runtime.CheckpointPodRequest{OutputPath: empty, ContainerIds: []string{one.id, other.id}}, codes.InvalidArgument, "belongs to"},
		{&runtime.CheckpointPodRequest{OutputPath: empty, ContainerIds: all, Options: map[string]string{"a": "b"}}, codes.InvalidArgument, "options"},
	} {
		r.request.PodSandboxId = p.id
		refused(t, n.checkpointPod(t, r.request), code(r.code), r.words)
		equal(t, "what is in the directory", len(must(os.ReadDir(empty))(t)), 0)
	}
	equal(t, "the file of the caller", string(must(os.ReadFile(filepath.Join(full, "file")))(t)), "mine")
	_, err = n.cri.Runtime.CheckpointPod(context.WithoutCancel(t.Context()), &runtime.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: empty, ContainerIds: all})
	refused(t, err, code(codes.InvalidArgument), "deadline")
	refused(t, n.checkpointPod(t, &runtime.CheckpointPodRequest{PodSandboxId: strings.Repeat("f", 64), OutputPath: empty, ContainerIds: all}), code(codes.NotFound))
}

func TestWhatIsNoCheckpointIsNotRestoredAndLeavesNothing(t *testing.T) {
	n := theNode(t)
	before := n.run(t, "pods", "-q")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := n.cri.Runtime.RestorePod(ctx, &runtime.RestorePodRequest{
		CheckpointPath: must(n.lab.Mkdir("checkpoints", "nothing"))(t), Config: n.podConfig(t),
		ContainerConfigs: []*runtime.ContainerConfig{n.containerConfig("true")},
	})
	refused(t, err, code(codes.FailedPrecondition), "container_level_enabled") // by default only checkpoints are on
	equal(t, "pods", n.run(t, "pods", "-q"), before)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What only some stories have: those whose point is not come by otherwise.

func (s *story) needs(pattern string) bool {
	return s.r.Task.Mode == traced || regexp.MustCompile(pattern).MatchString(s.r.Task.Point)
}

func (s *story) pull(ctx context.Context) error {
	if !s.withImage() {
		return nil
	}
	image := &runtime.ImageSpec{Image: s.n.fetched}
	if st, err := s.n.cri.Image.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: image}); err != nil || st.Image != nil {
		return err
	}
	_, err := s.n.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: image})
	return err
}

// withImage: pulling and removing an image is part of the stories that need it.
func (s *story) withImage() bool { return s.needs("^image/") }

// removeImage leaves the node without it; the next story that needs it pulls it.
func (s *story) removeImage(ctx context.Context) error {
	if !s.withImage() {
		return nil
	}
	_, err := s.n.cri.Image.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: s.n.fetched}})
	return err
}

// streams are an exec and an attach by crictl.
func (s *story) streams(ctx context.Context) error {
	if !s.needs("/(execStream|attach|hello)/") {
		return nil
	}
	if err := s.runContainer(ctx, "a"); err != nil {
		return err
	}
	if out, err := s.n.crictl.Run(ctx, "exec", s.last["a"].id, "echo", "streamed"); err != nil || out != "streamed" {
		return fmt.Errorf("crictl exec printed %q: %w", out, err)
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if out, _ := s.n.crictl.Run(short, "attach", s.last["a"].id); !strings.Contains(out, "a ") && !s.n.fired() { // it is cut off: a never ends
		return errors.New("crictl attach printed nothing")
	}
	return nil
}

// checkpoint pauses the pod and has CRIU dump it, which succeeds or does not.
// Whatever becomes of that, the container goes on: nothing stays frozen.
func (s *story) checkpoint(ctx context.Context) error {
	if !s.needs("/(freeze|thaw|dump)/") {
		return nil
	}
	if err := s.runContainer(ctx, "a"); err != nil {
		return err
	}
	dir, err := s.n.lab.Mkdir("checkpoints", fmt.Sprintf("%s-%d", s.name, time.Now().UnixNano()))
	if err != nil {
		return err
	}
	_, err = s.n.cri.Runtime.CheckpointPod(ctx, &runtime.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: dir, ContainerIds: []string{s.last["a"].id}})
	if err != nil && strings.Contains(err.Error(), "unable to freeze") {
		return err // cgroup v1 on a busy machine: once more
	}
	if err := s.writes("a"); err != nil {
		return errors.Join(s.present(ctx), err) // where the pod was stopped meanwhile, it need not
	}
	return nil
}

// writes says whether a container goes on writing.
func (s *story) writes(name string) error {
	log := filepath.Join(s.config.LogDirectory, s.mark(name, s.attempt, s.last[name].attempt)+".log")
	var before int64 = -1
	for range 20 {
		st, err := os.Stat(log)
		if err != nil {
			return err
		}
		if before >= 0 && st.Size() > before {
			return nil
		}
		before = st.Size()
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("container %s writes no more", name)
}

// terminal is a container with one.
func (s *story) terminal(ctx context.Context) error {
	if !s.needs("^log/terminal/") {
		return nil
	}
	return s.endOf(ctx, "t")
}

// upgrade has the monitor make room for its own program.
func (s *story) upgrade(ctx context.Context) error {
	if !s.needs("^handle/upgrade/") || s.passed() {
		return nil
	}
	out, err := exec.CommandContext(ctx, filepath.Join(s.n.bin, "troupe-monitor"), "upgrade", "--dir", filepath.Join(s.n.daemon.Run, "monitor")).CombinedOutput()
	if err != nil && s.r.Task.Mode != traced { // there, a monitor that has no such command is fine
		return fmt.Errorf("troupe-monitor upgrade: %w: %s", err, out)
	}
	return nil
}

// withTornRecord: strays are what a container without a record holds.
func (s *story) withTornRecord() bool {
	return strings.HasPrefix(s.r.Task.Point, "undo/sandbox/strays/")
}

// tear does to a container's record what a power cut can.
func (s *story) tear(name string) error {
	record := filepath.Join(s.n.daemon.Root, "pods", s.pod, "containers", s.last[name].id, "record")
	st, err := os.Stat(record)
	if err != nil {
		return err
	}
	return os.Truncate(record, st.Size()/2)
}

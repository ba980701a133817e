package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// bystander is a pod that nothing is done to: it must not notice what happens to
// others, nor to the daemon or the monitor.
type bystander struct {
	pod, container string
	pid            int
	log            string
	read           int64 // how much of the log was looked at
	count          counted
}

// errHarmed: no patience mends it.
var errHarmed = errors.New("the other pod was harmed")

// otherSleeps is what its shell runs again and again.
const otherSleeps = "sleep 0.05"

// end takes it away.
func (b *bystander) end(cri *harness.CRI) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: b.pod}); err != nil {
		return err
	}
	_, err := cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: b.pod})
	return err
}

// standBy makes it: a container that writes a numbered line now and then.
func (n *node) standBy(ctx context.Context) error {
	logs, err := n.lab.Mkdir("logs", "other")
	if err != nil {
		return err
	}
	pod := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: "other", Uid: "other", Namespace: "crash"},
		LogDirectory: logs, Linux: &runtime.LinuxPodSandboxConfig{},
	}
	p, err := n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return err
	}
	c, err := n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: pod, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "o"}, Image: &runtime.ImageSpec{Image: n.image}, LogPath: "o.log",
		Command: []string{"sh", "-c", `i=0; while :; do echo "o $((i++))"; ` + otherSleeps + `; done`},
		Linux:   &runtime.LinuxContainerConfig{},
	}})
	if err != nil {
		return err
	}
	if _, err := n.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return err
	}
	pid, err := n.cri.Pid(ctx, c.ContainerId)
	n.other = &bystander{pod: p.PodSandboxId, container: c.ContainerId, pid: pid, log: filepath.Join(logs, "o.log")}
	return err
}

// unharmed says what is wrong with it: it runs, as the same process, its log goes
// on, and a command can be run in it.
func (b *bystander) unharmed(ctx context.Context, cri *harness.CRI, r *result) error {
	st, err := cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: b.container})
	if err != nil {
		return fmt.Errorf("the other pod: %w", err)
	}
	if st.Status.State == runtime.ContainerState_CONTAINER_EXITED {
		return fmt.Errorf("%w: it has ended: %d %s %s", errHarmed, st.Status.ExitCode, st.Status.Reason, st.Status.Message)
	}
	pid, err := cri.Pid(ctx, b.container)
	if err != nil {
		return fmt.Errorf("the other pod: %w", err)
	}
	if pid != b.pid {
		return fmt.Errorf("%w: its process was %d and is %d", errHarmed, b.pid, pid)
	}
	if err := b.exec(ctx, cri); err != nil {
		return err
	}
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		lines := b.count.lines
		if err := b.look(r); err != nil {
			return err
		}
		if b.count.lines > lines {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the other pod's log does not go on after line %d", b.count.next-1)
		}
	}
}

func (b *bystander) exec(ctx context.Context, cri *harness.CRI) error {
	e, err := cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: b.container, Cmd: []string{"echo", "here"}, Timeout: 10})
	if err != nil {
		return fmt.Errorf("exec in the other pod: %w", err)
	}
	if string(e.Stdout) != "here\n" || e.ExitCode != 0 {
		return fmt.Errorf("exec in the other pod printed %q and ended with %d", e.Stdout, e.ExitCode)
	}
	return nil
}

// look reads what its log has got since the last time, up to the last whole line.
func (b *bystander) look(r *result) error {
	f, err := os.Open(b.log)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	text := make([]byte, size-b.read)
	if _, err := f.ReadAt(text, b.read); err != nil && size > b.read {
		return err
	}
	whole := len(text)
	for whole > 0 && text[whole-1] != '\n' {
		whole--
	}
	b.read += int64(whole)
	lost, doubled := b.count.lost, b.count.doubled
	err = b.count.take("o", string(text[:whole]))
	r.Lost += b.count.lost - lost
	r.Doubled += b.count.doubled - doubled
	return err
}

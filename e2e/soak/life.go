package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// life takes one pod from its beginning to its end, as a kubelet would: each
// call is repeated until it succeeds, with the same arguments.
func (n *node) life(ctx context.Context, name string, dice *rand.Rand) {
	logs, err := n.logDir(name)
	if err != nil {
		n.tally.find("log directory of %s: %v", name, err)
		return
	}
	defer os.RemoveAll(logs)
	config := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Namespace: "soak", Uid: "uid-" + name},
		Hostname: name[:min(len(name), 60)], LogDirectory: logs, Linux: &runtime.LinuxPodSandboxConfig{},
	}
	var pod string
	if !n.insist(ctx, "run pod "+name, func(ctx context.Context) error {
		r, err := n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
		pod = r.GetPodSandboxId()
		return err
	}) {
		return
	}
	n.tally.add(&n.tally.pods)
	for i := range 1 + dice.IntN(2) {
		n.container(ctx, &work{node: n, pod: pod, podConfig: config, name: fmt.Sprintf("c%d", i), dice: dice})
	}
	n.insist(ctx, "stop pod "+name, func(ctx context.Context) error {
		_, err := n.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod})
		return err
	})
	n.insist(ctx, "remove pod "+name, func(ctx context.Context) error {
		_, err := n.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod})
		return err
	})
}

// work is a container and what is known of what it must do.
type work struct {
	*node
	pod, id, name string
	podConfig     *runtime.PodSandboxConfig
	dice          *rand.Rand

	image     string
	service   bool // it writes until it is told to end
	lines     int  // that it writes; of a service: what it says it wrote
	code      int32
	closed    bool // its log is not written any more: after a rotation there may be none
	killed    bool // its grace may have been over before it could end
	kills     int  // of the monitor when it was created
	began     time.Time
	stillborn bool // it was never started
	logs      []string
}

// Each line is numbered and padded, so that a lost one is seen and counts.
const padding = " abcdefghijklmnopqrstuvwxyz0123456789"

func (w *work) command() string {
	if w.service {
		// The trap only takes note: run between two commands it would not know
		// whether the line it stands at was printed.
		return fmt.Sprintf(`i=0; trap 'told=1' TERM; while [ -z "$told" ]; do i=$((i+1)); echo "$i%s"; sleep 0.02; done; echo "end $i"; exit %d`, padding, w.code)
	}
	return fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "$i%s"; [ $((i%%10)) = 0 ] && sleep 0.02; done; echo "end $i"; exit %d`, w.lines, padding, w.code)
}

func (n *node) container(ctx context.Context, w *work) {
	w.service, w.code, w.lines = w.dice.IntN(3) == 0, int32(w.dice.IntN(100)), 200+w.dice.IntN(2500)
	w.image = n.images[0]
	if w.dice.IntN(4) == 0 {
		w.image = n.images[1+w.dice.IntN(churned)]
	}
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: w.name}, Image: &runtime.ImageSpec{Image: w.image},
		Command: []string{"sh", "-c", w.command()}, LogPath: w.name + ".log",
		Linux: &runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{}, SecurityContext: &runtime.LinuxContainerSecurityContext{}},
	}
	w.logs = []string{filepath.Join(w.podConfig.LogDirectory, config.LogPath)}
	w.kills, w.began = n.monitorKills(), time.Now()
	if !n.insist(ctx, "create container "+w.podConfig.Metadata.Name+"/"+w.name, func(ctx context.Context) error {
		r, err := n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: w.pod, Config: config, SandboxConfig: w.podConfig})
		w.id = r.GetContainerId()
		if is(err, codes.NotFound) && w.image != n.images[0] { // another has removed it
			_ = n.pull(ctx, w.image)
		}
		return err
	}) {
		return
	}
	n.tally.add(&n.tally.containers)
	if n.insist(ctx, "start container "+w.id, w.start) && !w.stillborn {
		w.visit(ctx)
		w.end(ctx)
	}
	n.insist(ctx, "remove container "+w.id, func(ctx context.Context) error {
		_, err := n.cri.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: w.id})
		return err
	})
	if w.image != n.images[0] && w.dice.IntN(2) == 0 {
		_ = n.removeImage(ctx, w.image) // it may be in use, and the daemon may be dead
	}
}

// start: an answer that got lost may have been a success, and it may have ended
// since. A start that was cut off may also be told as failed, or its process
// went with the monitor before it ran: a kubelet makes a new container then.
func (w *work) start(ctx context.Context) error {
	_, err := w.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: w.id})
	if is(err, codes.FailedPrecondition) {
		if s, asked := w.status(ctx); asked == nil && s.State == runtime.ContainerState_CONTAINER_EXITED {
			w.stillborn = s.StartedAt == 0 || s.Reason == "StartError"
			if w.stillborn && w.lastKill().Before(w.began) {
				w.tally.find("container %s was not started though nobody was killed: %s %s", w.id, s.Reason, s.Message)
			}
			return nil
		}
	}
	return err
}

func (w *work) status(ctx context.Context) (*runtime.ContainerStatus, error) {
	r, err := w.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: w.id})
	return r.GetStatus(), err
}

// visit does what is done to running containers: execs and a log rotation.
func (w *work) visit(ctx context.Context) {
	for i := range w.dice.IntN(4) {
		w.exec(ctx, fmt.Sprintf("%s-%d", w.id[:12], i))
		if w.dice.IntN(4) == 0 && !w.closed {
			w.rotate(ctx)
		}
		time.Sleep(time.Duration(w.dice.IntN(1500)) * time.Millisecond)
	}
}

func (w *work) exec(ctx context.Context, token string) {
	w.insist(ctx, "exec in "+w.id, func(ctx context.Context) error {
		r, err := w.cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: w.id, Cmd: []string{"sh", "-c", "echo " + token + "; exit 3"}, Timeout: 30})
		switch {
		case is(err, codes.FailedPrecondition): // it has ended
			if s, asked := w.status(ctx); asked == nil && s.State == runtime.ContainerState_CONTAINER_EXITED {
				return nil
			}
		case err == nil && (r.ExitCode == 137 || string(r.Stdout) != token+"\n"):
			// It went down with its container, perhaps.
			if s, asked := w.status(ctx); asked != nil || s.State != runtime.ContainerState_CONTAINER_EXITED {
				return fmt.Errorf("an exec printed %q, code %d", r.Stdout, r.ExitCode)
			}
		case err == nil && r.ExitCode != 3:
			w.tally.find("exec in %s: code %d, not 3", w.id, r.ExitCode)
		}
		return err
	})
	w.tally.add(&w.tally.execs)
}

// rotate moves the log away and has it reopened, as a kubelet does.
func (w *work) rotate(ctx context.Context) {
	current := w.logs[len(w.logs)-1]
	old := fmt.Sprintf("%s.%d", current, len(w.logs))
	if err := os.Rename(current, old); err != nil {
		w.tally.find("rotating the log of %s: %v", w.id, err)
		return
	}
	w.logs = append(w.logs[:len(w.logs)-1], old, current)
	w.insist(ctx, "reopen log of "+w.id, func(ctx context.Context) error {
		_, err := w.cri.Runtime.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: w.id})
		if is(err, codes.FailedPrecondition) { // it has ended
			w.closed = true
			return nil
		}
		return err
	})
	w.tally.add(&w.tally.rotations)
}

// grace is longer than a service needs on the busiest machine.
const grace = 40 * time.Second

// end waits for a worker's end, or tells a service to come to its own, and
// judges how that was told.
func (w *work) end(ctx context.Context) {
	begin := time.Now()
	if w.service {
		// Before its first line a shell has no trap, and ends by SIGTERM.
		w.insist(ctx, "wait for the first line of "+w.id, func(context.Context) error {
			if text, err := w.printed(); err != nil || text == "" {
				return errNotYet
			}
			return nil
		})
		time.Sleep(time.Duration(w.dice.IntN(3000)) * time.Millisecond)
		w.insist(ctx, "stop container "+w.id, func(ctx context.Context) error {
			_, err := w.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: w.id, Timeout: int64(grace / time.Second)})
			return err
		})
		w.killed = time.Since(begin) >= grace
	}
	var last *runtime.ContainerStatus
	if w.insist(ctx, "wait for the end of "+w.id, func(ctx context.Context) error {
		s, err := w.status(ctx)
		if err == nil && s.State != runtime.ContainerState_CONTAINER_EXITED {
			err = errNotYet
		}
		last = s
		return err
	}) {
		w.judge(last)
	}
}

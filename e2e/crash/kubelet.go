package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The containers: a writes lines until it is told to end, b a number of them, t to a
// terminal.
// Each writes down the truth of its end before it ends. A line and its count are
// one command, which no trap divides.
var scripts = map[string]string{
	"a": `trap 'echo "$i 7" > /out/%[1]s; exit 7' TERM; i=0; while :; do echo "a $((i++))"; [ $((i %% 20)) -ne 0 ] || sleep 0.01; done`,
	"b": `i=0; while [ $i -lt 3000 ]; do echo "b $((i++))"; done; echo "$i 3" > /out/%[1]s; exit 3`,
	"t": `i=0; while [ $i -lt 300 ]; do echo "t $((i++))"; done; echo "$i 4" > /out/%[1]s; exit 4`,
}

// endsWith is what those end with that end by themselves.
var endsWith = map[string]int32{"b": 3, "t": 4}

func (s *story) pods(ctx context.Context) ([]*runtime.PodSandbox, error) {
	r, err := s.n.cri.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{LabelSelector: s.labels()}})
	return r.GetItems(), err
}

// runPod makes sure that there is a pod, and no other of the story's.
func (s *story) runPod(ctx context.Context) error {
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.State == runtime.PodSandboxState_SANDBOX_READY && p.Metadata.Attempt == s.attempt {
			s.pod = p.Id
			return nil
		}
		s.attempt = max(s.attempt, p.Metadata.Attempt+1)
	}
	if err := s.removePods(ctx); err != nil {
		return err
	}
	logs, err := s.n.lab.Mkdir("logs", s.name)
	if err != nil {
		return err
	}
	s.config = &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: s.name, Uid: s.uid, Namespace: "crash", Attempt: s.attempt},
		Hostname: s.name, LogDirectory: logs, Labels: s.labels(),
		PortMappings: []*runtime.PortMapping{{ContainerPort: 80, HostPort: 8080}},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_POD},
		}},
	}
	p, err := s.n.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: s.config})
	if err == nil {
		s.pod = p.PodSandboxId
	}
	return err
}

// present says whether the pod still stands.
func (s *story) present(ctx context.Context) error {
	p, err := s.n.cri.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.pod})
	if status.Code(err) == codes.NotFound || err == nil && p.Status.State != runtime.PodSandboxState_SANDBOX_READY {
		return errPodLost
	}
	return err
}

// runContainer makes sure that the newest attempt of a container runs, or has
// run if it ends by itself.
func (s *story) runContainer(ctx context.Context, name string) error {
	if err := s.present(ctx); err != nil {
		return err
	}
	list, err := s.n.cri.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: s.pod, LabelSelector: map[string]string{"name": name}}})
	if err != nil {
		return err
	}
	attempt := uint32(0)
	if len(list.Containers) > 0 {
		c := slices.MaxFunc(list.Containers, func(a, b *runtime.Container) int { return int(a.Metadata.Attempt) - int(b.Metadata.Attempt) })
		s.last[name] = &held{id: c.Id, attempt: c.Metadata.Attempt}
		switch c.State {
		case runtime.ContainerState_CONTAINER_RUNNING:
			return nil
		case runtime.ContainerState_CONTAINER_CREATED:
			_, err := s.n.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.Id})
			return err
		case runtime.ContainerState_CONTAINER_EXITED:
			st, err := s.judge(ctx, name)
			if err != nil {
				return err
			}
			if code, ends := endsWith[name]; ends && st.ExitCode == code {
				return nil
			}
			attempt = c.Metadata.Attempt + 1
		default:
			return fmt.Errorf("container %s is %s", name, c.State)
		}
	}
	_, err = s.n.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: s.pod, SandboxConfig: s.config, Config: s.container(name, attempt)})
	if err != nil {
		return err
	}
	return s.runContainer(ctx, name) // which finds and starts it
}

// mark names a container's attempt in the story: for its log and its truth.
func (s *story) mark(name string, pod, attempt uint32) string {
	return fmt.Sprintf("%s-%d-%d", name, pod, attempt)
}

func (s *story) container(name string, attempt uint32) *runtime.ContainerConfig {
	mark := s.mark(name, s.attempt, attempt)
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt}, Labels: map[string]string{"name": name},
		Image: &runtime.ImageSpec{Image: s.n.image}, LogPath: mark + ".log", Tty: name == "t",
		Command: []string{"sh", "-c", fmt.Sprintf(scripts[name], mark)},
		Mounts: []*runtime.Mount{
			{HostPath: s.out, ContainerPath: "/out"},
			{Image: &runtime.ImageSpec{Image: s.n.image}, ContainerPath: "/image", Readonly: true},
		},
		Linux: &runtime.LinuxContainerConfig{Resources: &runtime.LinuxContainerResources{CpuShares: 100}, SecurityContext: &runtime.LinuxContainerSecurityContext{
			NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_POD},
		}},
	}
}

// judge looks at a container that has ended: its exit and its log, once.
func (s *story) judge(ctx context.Context, name string) (*runtime.ContainerStatus, error) {
	c := s.last[name]
	r, err := s.n.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		return nil, err
	}
	if r.Status.State != runtime.ContainerState_CONTAINER_EXITED {
		return nil, fmt.Errorf("container %s is %s and not exited", name, r.Status.State)
	}
	return r.Status, s.settle(s.attempt, r.Status)
}

// settle takes the exit down and judges it when it is new; an exit that is told
// otherwise than before is a lie in any case.
func (s *story) settle(pod uint32, st *runtime.ContainerStatus) error {
	name := st.Metadata.Name
	mark := s.mark(name, pod, st.Metadata.Attempt)
	t := truthOf(filepath.Join(s.out, mark))
	if s.judged[mark] {
		return nil
	}
	s.judged[mark] = true
	judgeExit(s.r, "container "+mark, st, t)
	log := filepath.Join(s.config.LogDirectory, mark+".log")
	return judgeLog(s.r, name, t, log+".1", log)
}

// wrote: a's shell is at its work, and obeys signals.
func (s *story) wrote(name string) error {
	c := s.last[name]
	st, err := os.Stat(filepath.Join(s.config.LogDirectory, s.mark(name, s.attempt, c.attempt)+".log"))
	if err == nil && st.Size() == 0 {
		err = errors.New("its log is empty")
	}
	return err
}

// endOf makes sure that a container that ends by itself has done so.
func (s *story) endOf(ctx context.Context, name string) error {
	if err := s.runContainer(ctx, name); err != nil {
		return err
	}
	st, err := s.judge(ctx, name)
	if err == nil && st.ExitCode != endsWith[name] {
		return fmt.Errorf("%s has ended with %d (%s)", name, st.ExitCode, st.Reason)
	}
	return err
}

func (s *story) exec(ctx context.Context) error {
	if err := s.runContainer(ctx, "a"); err != nil {
		return err
	}
	e, err := s.n.cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: s.last["a"].id, Cmd: []string{"sh", "-c", "echo hi; exit 5"}, Timeout: 10})
	if err != nil {
		return err
	}
	if e.ExitCode == 137 && s.r.Task.Mode == hangs && s.reached.Load() {
		return errors.New("the exec was killed, with its pod, which whileItHangs stops")
	}
	if string(e.Stdout) != "hi\n" || e.ExitCode != 5 {
		s.r.Invented = append(s.r.Invented, fmt.Sprintf("an exec that prints hi and ends with 5 is said to have printed %q and ended with %d", e.Stdout, e.ExitCode))
	}
	return nil
}

func (s *story) update(ctx context.Context) error {
	if err := s.runContainer(ctx, "a"); err != nil {
		return err
	}
	id := s.last["a"].id
	_, err := s.n.cri.Runtime.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtime.LinuxContainerResources{CpuShares: 512}})
	if err != nil {
		return err
	}
	r, err := s.n.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err == nil && r.Status.Resources.GetLinux().GetCpuShares() != 512 {
		err = fmt.Errorf("updated to 512 CPU shares, it is shown with %d", r.Status.Resources.GetLinux().GetCpuShares())
	}
	return err
}

// reopen rotates a's log as the kubelet does.
func (s *story) reopen(ctx context.Context) error {
	if err := s.runContainer(ctx, "a"); err != nil {
		return err
	}
	c := s.last["a"]
	log := filepath.Join(s.config.LogDirectory, s.mark("a", s.attempt, c.attempt)+".log")
	if _, err := os.Stat(log + ".1"); err != nil {
		if err := os.Rename(log, log+".1"); err != nil {
			return err
		}
	}
	if _, err := s.n.cri.Runtime.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: c.id}); err != nil {
		return err
	}
	return s.wrote("a")
}

func (s *story) stopA(ctx context.Context) error {
	if err := s.present(ctx); err != nil {
		return err
	}
	if _, err := s.n.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: s.last["a"].id, Timeout: 5}); err != nil {
		return err
	}
	_, err := s.judge(ctx, "a")
	return err
}

// removePods ends what is left of the story: containers are judged before they
// go.
func (s *story) removePods(ctx context.Context) error {
	pods, err := s.pods(ctx)
	for _, p := range pods {
		if err := s.removePod(ctx, p); err != nil {
			return err
		}
	}
	return err
}

func (s *story) removePod(ctx context.Context, p *runtime.PodSandbox) error {
	pod := p.Id
	if _, err := s.n.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	list, err := s.n.cri.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: pod}})
	if err != nil {
		return err
	}
	for _, c := range list.Containers {
		r, err := s.n.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.Id})
		switch {
		case status.Code(err) == codes.NotFound:
			continue
		case err != nil:
			return err
		case r.Status.State != runtime.ContainerState_CONTAINER_EXITED:
			return fmt.Errorf("in a stopped pod container %s is %s", c.Metadata.Name, r.Status.State)
		}
		if err := s.settle(p.Metadata.Attempt, r.Status); err != nil {
			return err
		}
		if _, err := s.n.cri.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.Id}); err != nil {
			return err
		}
	}
	_, err = s.n.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

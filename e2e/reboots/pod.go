package main

import (
	"context"
	"fmt"
	"os"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// workPod is a pod of the machine's, each of whose calls is told before and
// after.
type workPod struct {
	*agent
	id     string
	config *runtime.PodSandboxConfig
}

// Kinds of pods.
const (
	plain = iota
	sharedPID
	hostPort
	hostNetwork
)

// atWork are the numbers of the pods that come and go. The last is one that
// fill has not: it takes no address.
var atWork = []int{0, 1, 2, 3, 4, addresses}

// kind is what a pod with this number is like.
func kind(n int) int {
	switch n {
	case 1:
		return sharedPID
	case 2, 3:
		return hostPort
	case addresses:
		return hostNetwork
	}
	return plain
}

func name(n int) string { return fmt.Sprintf("pod%d", n) }

func (a *agent) newPod(kind, n int) *workPod {
	logs := "/var/log/pods/" + name(n)
	_ = os.MkdirAll(logs, 0o755) // what needs it will say so
	pid := runtime.NamespaceMode_CONTAINER
	if kind == sharedPID {
		pid = runtime.NamespaceMode_POD
	}
	p := &workPod{agent: a, config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name(n), Uid: "uid-" + name(n), Namespace: "lab", Attempt: a.plan.Attempts[name(n)]},
		Hostname: name(n), LogDirectory: logs, Linux: &runtime.LinuxPodSandboxConfig{
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Pid: pid}},
		},
	}}
	if kind == hostNetwork {
		p.config.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	}
	if kind == hostPort {
		p.config.PortMappings = []*runtime.PortMapping{{ContainerPort: 80, HostPort: int32(8000 + n)}}
	}
	return p
}

func (p *workPod) event(kind, op, container string) Event {
	return Event{Kind: kind, Op: op, Pod: p.config.Metadata.Name, Attempt: p.config.Metadata.Attempt, Container: container}
}

// around tells of a call before and after it.
func (p *workPod) around(op, container string, call func(did *Event) error) error {
	e := p.event("do", op, container)
	p.tell(e)
	e.Kind = "did"
	if err := call(&e); err != nil {
		return fmt.Errorf("%s of pod %s/%d, container %q: %w", op, e.Pod, e.Attempt, container, err)
	}
	p.tell(e)
	return nil
}

func (p *workPod) run(ctx context.Context) (ip string, err error) {
	err = p.around("run", "", func(did *Event) error {
		r, err := p.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: p.config})
		if err != nil {
			return err
		}
		p.id = r.PodSandboxId
		s, err := p.cri.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			return err
		}
		did.ID, did.Created, ip = p.id, s.Status.CreatedAt, s.Status.Network.GetIp()
		return nil
	})
	return ip, err
}

func (p *workPod) stop(ctx context.Context) error {
	return p.around("stop", "", func(*Event) error {
		_, err := p.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
		return err
	})
}

func (p *workPod) remove(ctx context.Context) error {
	return p.around("remove", "", func(*Event) error {
		_, err := p.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
		return err
	})
}

// start makes a container that runs a shell command, and starts it unless it
// is to stay idle. code is what it ends with by itself.
func (p *workPod) start(ctx context.Context, name, shell string, code int32, idle bool) (id string, err error) {
	data := "/var/lib/reboots/" + p.config.Metadata.Name
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", err
	}
	err = p.around("create", name, func(did *Event) error {
		r, err := p.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: p.plan.Image},
			Command: []string{"sh", "-c", shell}, LogPath: name + ".log",
			Mounts: []*runtime.Mount{{HostPath: data, ContainerPath: "/volume"}},
			Linux: &runtime.LinuxContainerConfig{
				Resources:       &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
				SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions},
			},
		}})
		if err != nil {
			return err
		}
		id = r.ContainerId
		s, err := p.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		did.ID, did.Created, did.Code = id, s.Status.CreatedAt, code
		return nil
	})
	if err != nil || idle {
		return id, err
	}
	return id, p.around("start", name, func(*Event) error {
		_, err := p.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
		return err
	})
}

// seeEnd waits for a container's end and tells its code.
func (p *workPod) seeEnd(ctx context.Context, name, id string) error {
	for ; ; time.Sleep(200 * time.Millisecond) {
		r, err := p.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return fmt.Errorf("the status of %s: %w", name, err)
		}
		if r.Status.State == runtime.ContainerState_CONTAINER_EXITED {
			e := p.event("exited", "", name)
			e.Code = r.Status.ExitCode
			p.tell(e)
			return nil
		}
	}
}

func (p *workPod) stopContainer(ctx context.Context, name, id string) error {
	err := p.around("stop", name, func(*Event) error {
		_, err := p.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id, Timeout: 3})
		return err
	})
	if err != nil {
		return err
	}
	return p.seeEnd(ctx, name, id)
}

func (p *workPod) removeContainer(ctx context.Context, name, id string) error {
	return p.around("remove", name, func(*Event) error {
		_, err := p.cri.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
		return err
	})
}

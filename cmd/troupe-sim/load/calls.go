package load

import (
	"context"
	"fmt"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// up makes a pod with one running container, as the kubelet would.
func (d *driver) up(ctx context.Context, rec *recorder) (p pair, err error) {
	name := fmt.Sprintf("%s-%d", d.prefix, d.next.Add(1))
	podConfig := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: name, Namespace: "load"},
		Hostname:     "load",
		LogDirectory: d.LogDir,
		Labels:       map[string]string{"troupe-sim": d.prefix},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: d.CgroupParent,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				Seccomp:          &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
			},
		},
	}
	err = rec.time("RunPodSandbox", func() error {
		r, err := d.runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: podConfig, RuntimeHandler: d.Handler})
		p.pod = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return p, err
	}
	err = rec.time("CreateContainer", func() error {
		r, err := d.runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
			PodSandboxId: p.pod, SandboxConfig: podConfig, Config: d.containerConfig(),
		})
		p.container = r.GetContainerId()
		return err
	})
	if err != nil {
		return p, err
	}
	err = rec.time("StartContainer", func() error {
		_, err := d.runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: p.container})
		return err
	})
	return p, err
}

func (d *driver) containerConfig() *runtime.ContainerConfig {
	c := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"},
		Image:    &runtime.ImageSpec{Image: d.Image},
		Command:  []string{"sleep", "100000"},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 102},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				Seccomp:          &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if d.LogDir != "" {
		c.LogPath = "main.log"
	}
	return c
}

func (d *driver) exec(ctx context.Context, rec *recorder, container string) error {
	return rec.time("ExecSync", func() error {
		r, err := d.runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: container, Cmd: []string{"true"}, Timeout: 30})
		if err == nil && r.ExitCode != 0 {
			return fmt.Errorf("true ended with %d: %s", r.ExitCode, r.Stderr)
		}
		return err
	})
}

// down stops and removes a pod and its container. The stop is without grace:
// sleep ignores SIGTERM as process 1, and waiting for it measures nothing.
func (d *driver) down(ctx context.Context, rec *recorder, p pair) error {
	steps := []struct {
		name string
		call func() error
	}{
		{"StopContainer", func() error {
			_, err := d.runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: p.container})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := d.runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: p.container})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := d.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.pod})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := d.runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.pod})
			return err
		}},
	}
	for _, s := range steps {
		if err := rec.time(s.name, s.call); err != nil {
			return err
		}
	}
	return nil
}

// lists asks for all there is, as a kubelet, a metrics server or crictl does.
func (d *driver) lists(ctx context.Context, rec *recorder) error {
	for range d.Lists {
		for name, call := range map[string]func() error{
			"ListPodSandbox": func() error {
				_, err := d.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
				return err
			},
			"ListContainers": func() error {
				_, err := d.runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
				return err
			},
			"ListContainerStats": func() error {
				_, err := d.runtime.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
				return err
			},
			"ListPodSandboxStats": func() error {
				_, err := d.runtime.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{})
				return err
			},
		} {
			if err := rec.time(name, call); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep removes every pod that this run made and that is still there.
func (d *driver) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	pods, err := d.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return // the runtime has gone; the run's own error says so
	}
	for _, p := range pods.Items {
		if strings.HasPrefix(p.Metadata.GetUid(), d.prefix+"-") {
			_, _ = d.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.Id})
			_, _ = d.runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.Id})
		}
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/troupe-run/troupe/e2e/harness"
	debugv1 "github.com/troupe-run/troupe/messages/debugv1"
)

// demo is what the steps share.
type demo struct {
	*printer
	lab      *harness.Lab
	registry *harness.Registry
	daemon   *harness.Daemon
	cri      *harness.CRI
	debug    *harness.CRI
	inspect  debugv1.IntrospectionClient
	images   debugv1.ImagesClient
	image    string
	pods     []*pod
}

// pod is a pod of the demo with its one container.
type pod struct {
	config        *runtime.PodSandboxConfig
	id, container string
	ip            string
	pid           int
}

func (d *demo) prepare(context.Context) error {
	d.say("directory %s, cgroups under /%s", d.lab.Dir, d.lab.Name)
	d.say("nothing outside of it is changed: not your network, not your mounts, not your files")
	return nil
}

func (d *demo) publish(ctx context.Context) (err error) {
	if d.registry, err = d.lab.StartRegistry(ctx, harness.RegistryOptions{}); err != nil {
		return err
	}
	d.say("docker-registry listens on %s", d.registry.Host)
	image, err := harness.BuildImage(harness.ImageSpec{
		Cmd: []string{"sh"}, Labels: map[string]string{"made-by": "make demo"}, Ballast: []int{24 << 20, 16 << 20, 8 << 20},
	})
	if err != nil {
		return err
	}
	d.image, err = d.registry.Push(ctx, "demo/busybox", "1", image)
	d.say("pushed %s (%d layers), digest %s", d.image, len(image.LayerOrder), short(image.Digest()))
	return err
}

func (d *demo) start(ctx context.Context) (err error) {
	network, err := d.lab.NewNetwork()
	if err != nil {
		return err
	}
	if err := network.Configure(); err != nil {
		return err
	}
	d.daemon, err = d.lab.NewDaemon(harness.DaemonOptions{Network: network, Insecure: []string{d.registry.Host}, LogLevel: "info"})
	if err != nil {
		return err
	}
	if err := d.startDaemon(ctx); err != nil {
		return err
	}
	if d.cri, err = harness.Dial(d.daemon.Socket); err != nil {
		return err
	}
	if d.debug, err = harness.Dial(d.daemon.DebugSocket); err != nil {
		return err
	}
	d.inspect = debugv1.NewIntrospectionClient(d.debug.Conn)
	d.images = debugv1.NewImagesClient(d.debug.Conn)
	v, err := d.cri.Runtime.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return err
	}
	d.say("%s %s speaks CRI %s on %s", v.RuntimeName, v.RuntimeVersion, v.RuntimeApiVersion, d.daemon.Socket)
	d.say("CNI: bridge %s, %s, by the distribution's plugins", network.Bridge, network.Subnet)
	return d.ready(ctx)
}

func (d *demo) startDaemon(ctx context.Context) error {
	begin := time.Now()
	if err := d.daemon.Start(ctx); err != nil {
		return err
	}
	d.say("daemon pid %d answered after %s; monitor pid %s", d.daemon.Pid(), took(begin), pids(d.daemon.Monitors()))
	return nil
}

// ready waits for both conditions of the node.
func (d *demo) ready(ctx context.Context) error {
	for {
		r, err := d.cri.Runtime.Status(ctx, &runtime.StatusRequest{})
		if err != nil {
			return err
		}
		waiting := ""
		for _, c := range r.Status.Conditions {
			if !c.Status && (c.Type == runtime.RuntimeReady || c.Type == runtime.NetworkReady) {
				waiting = c.Type + ": " + c.Message
			}
		}
		if waiting == "" {
			d.say("RuntimeReady and NetworkReady")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; %s", ctx.Err(), waiting)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *demo) pull(ctx context.Context) error {
	stop := d.watchPulls(ctx)
	begin := time.Now()
	r, err := d.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: d.image}})
	stop()
	if err != nil {
		return err
	}
	d.say("pulled in %s: image %s", took(begin), short(r.ImageRef))
	return nil
}

func (d *demo) runPods(ctx context.Context) error {
	stop := d.watchLives(ctx)
	defer stop()
	for _, name := range []string{"web", "client"} {
		p, err := d.runPod(ctx, name)
		if err != nil {
			return err
		}
		d.pods = append(d.pods, p)
	}
	stop()
	for _, p := range d.pods {
		d.say("pod %-8s %s  ip %-12s container %s  pid %d", p.config.Metadata.Name, short(p.id), p.ip, short(p.container), p.pid)
	}
	return nil
}

// Commands of the two pods: one serves a page, the other asks for it.
var commands = map[string]string{
	"web":    `mkdir -p /www; echo "hello from $HOSTNAME" >/www/index.html; echo serving; trap 'exit 0' TERM; httpd -f -v -p 80 -h /www & wait`,
	"client": `trap 'echo bye; exit 0' TERM; i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 1 & wait $!; done`,
}

func (d *demo) runPod(ctx context.Context, name string) (*pod, error) {
	begin := time.Now()
	logs, err := d.lab.Mkdir("logs", name)
	if err != nil {
		return nil, err
	}
	own := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	p := &pod{config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: "demo-" + name, Namespace: "demo"},
		Hostname: name, LogDirectory: logs,
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: own}},
	}}
	run, err := d.cri.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return nil, err
	}
	p.id = run.PodSandboxId
	created, err := d.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config, Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: d.image},
			Command: []string{"sh", "-c", commands[name]}, LogPath: name + ".log",
			Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: own}},
		},
	})
	if err != nil {
		return nil, err
	}
	p.container = created.ContainerId
	if _, err := d.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: p.container}); err != nil {
		return nil, err
	}
	d.say("%s is up after %s: sandbox, network, container", name, took(begin))
	if p.pid, err = d.cri.Pid(ctx, p.container); err != nil {
		return nil, err
	}
	status, err := d.cri.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.id})
	p.ip = status.GetStatus().GetNetwork().GetIp()
	return p, err
}

func (d *demo) logAndExec(ctx context.Context) error {
	web, client := d.pods[0], d.pods[1]
	out, err := d.exec(ctx, client, "wget", "-qO-", "http://"+web.ip+"/")
	if err != nil {
		return err
	}
	d.say("exec in client: wget http://%s/  →  %s", web.ip, out)
	for _, p := range d.pods {
		if err := d.showLog(p); err != nil {
			return err
		}
	}
	return nil
}

// exec retries for a moment: a server may need one to listen.
func (d *demo) exec(ctx context.Context, p *pod, command ...string) (string, error) {
	for try := 0; ; try++ {
		r, err := d.cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: p.container, Cmd: command, Timeout: 10})
		switch {
		case err != nil:
			return "", err
		case r.ExitCode == 0:
			return strings.TrimSpace(string(r.Stdout)), nil
		case try == 50:
			return "", fmt.Errorf("%s ended with %d: %s", strings.Join(command, " "), r.ExitCode, r.Stderr)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (d *demo) showLog(p *pod) error {
	path := filepath.Join(p.config.LogDirectory, p.config.Metadata.Name+".log")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	d.say("%s (%d lines):", path, len(lines))
	for _, line := range lines[max(0, len(lines)-3):] {
		d.note("    %s", line)
	}
	return nil
}

func (d *demo) killAndRestart(ctx context.Context) error {
	if err := d.daemon.Kill(); err != nil {
		return err
	}
	d.say("killed; the pods run on: %s", alive(d.pods))
	time.Sleep(1200 * time.Millisecond) // let a line be logged while nobody is there
	if err := d.startDaemon(ctx); err != nil {
		return err
	}
	if err := d.ready(ctx); err != nil {
		return err
	}
	for _, p := range d.pods {
		pid, err := d.cri.Pid(ctx, p.container)
		if err != nil {
			return err
		}
		if pid != p.pid {
			return fmt.Errorf("%s had pid %d and has %d", p.config.Metadata.Name, p.pid, pid)
		}
		d.good("%s: pid %d, the same as before", p.config.Metadata.Name, pid)
	}
	out, err := d.exec(ctx, d.pods[1], "wget", "-qO-", "http://"+d.pods[0].ip+"/")
	if err != nil {
		return err
	}
	d.say("exec in client: wget http://%s/  →  %s", d.pods[0].ip, out)
	return d.showLog(d.pods[1])
}

func (d *demo) remove(ctx context.Context) error {
	for _, p := range d.pods {
		begin := time.Now()
		for _, step := range []func() error{
			func() error {
				_, err := d.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: p.container, Timeout: 2})
				return err
			},
			func() error {
				_, err := d.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
				return err
			},
			func() error {
				_, err := d.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
				return err
			},
		} {
			if err := step(); err != nil {
				return err
			}
		}
		d.say("pod %s stopped and removed in %s", p.config.Metadata.Name, took(begin))
	}
	if _, err := d.cri.Image.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: d.image}}); err != nil {
		return err
	}
	d.say("image removed; daemon, monitor, registry and directory go now")
	return nil
}

package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Containerd is a private containerd with runc, set up as like the private
// daemon as it can be: same file system, CNI network, registry, image.
type Containerd struct {
	Socket, LogFile string
	Pid             int
	cmd             *exec.Cmd
	start           func() (*exec.Cmd, error)
}

// ContainerdOptions say what it works with.
type ContainerdOptions struct {
	Network  *Network
	Registry string // host:port, spoken to by plain HTTP
	Sandbox  string // reference of its pause image
	Root     string // directory for images and snapshots; empty: one in the lab
}

// StartContainerd starts one and waits until it answers.
func (l *Lab) StartContainerd(ctx context.Context, o ContainerdOptions) (*Containerd, error) {
	bin, err := Tool("containerd")
	if err != nil {
		return nil, fmt.Errorf("%w ('make peers' builds it)", err)
	}
	c := &Containerd{Socket: l.Path("containerd", "run", "containerd.sock"), LogFile: l.Path("containerd", "log")}
	if _, err := l.Write(fmt.Sprintf("server = %[1]q\n[host.%[1]q]\ncapabilities = [\"pull\", \"resolve\"]\n", "http://"+o.Registry),
		"containerd", "certs.d", o.Registry, "hosts.toml"); err != nil {
		return nil, err
	}
	if o.Root == "" {
		o.Root = l.Path("containerd", "lib")
	}
	config, err := l.Write(fmt.Sprintf(containerdConfig,
		o.Root, l.Path("containerd", "run"), c.Socket,
		l.Path("containerd", "certs.d"), o.Sandbox,
		o.Network.Dir(), list(PluginDirs), filepath.Join(filepath.Dir(bin), "runc"),
	), "containerd", "config.toml")
	if err != nil {
		return nil, err
	}
	c.start = func() (*exec.Cmd, error) {
		cmd := exec.Command(bin, "--config", config)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH")) // its shim and runc, not Debian's
		return cmd, l.startProcess(cmd, c.LogFile)
	}
	return c, c.Start(ctx)
}

// Start starts it, also again, and waits until it answers.
func (c *Containerd) Start(ctx context.Context) error {
	var err error
	if c.cmd, err = c.start(); err != nil {
		return err
	}
	c.Pid = c.cmd.Process.Pid
	return c.ready(ctx)
}

// Kill ends the daemon with SIGKILL; its shims live on.
func (c *Containerd) Kill() error { return killed(c.cmd) }

// containerdConfig is containerd 2's format; the verbs are root, state,
// socket, registry hosts, pause image, CNI directories, runc. The OOM score is
// kept where it is: where the lab runs, lowering it may not be allowed.
const containerdConfig = `version = 3
root = %q
state = %q
[grpc]
address = %q
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".registry]
config_path = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = %q
bin_dirs = %s
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = %q
SystemdCgroup = false
`

func (c *Containerd) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cri, err := Dial(c.Socket)
	if err != nil {
		return err
	}
	defer cri.Close()
	for {
		_, err := cri.Runtime.Status(ctx, &runtime.StatusRequest{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(c.LogFile)
			return fmt.Errorf("containerd does not answer on %s: %w; its log:\n%s", c.Socket, err, log[max(0, len(log)-4000):])
		case <-time.After(20 * time.Millisecond):
		}
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podConfig is a pod as crictl users write it, with a name of its own.
func (n *node) podConfig(t *testing.T, change ...func(*runtime.PodSandboxConfig)) *runtime.PodSandboxConfig {
	t.Helper()
	name := fmt.Sprintf("pod-%d", serial.Add(1))
	c := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "e2e"},
		Hostname:     name,
		LogDirectory: must(n.lab.Mkdir("logs", name))(t),
		Linux:        &runtime.LinuxPodSandboxConfig{},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

var serial atomic.Int64

// containerConfig is a container that runs a shell command.
func (n *node) containerConfig(command string, change ...func(*runtime.ContainerConfig)) *runtime.ContainerConfig {
	name := fmt.Sprintf("c-%d", serial.Add(1))
	c := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: n.image},
		LogPath:  name + ".log",
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{}, SecurityContext: &runtime.LinuxContainerSecurityContext{},
		},
	}
	if command != "" {
		c.Command = []string{"sh", "-c", command}
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// file writes a configuration for crictl to read.
func (n *node) file(t *testing.T, config any) string {
	t.Helper()
	text := must(json.Marshal(config))(t)
	return must(n.lab.Write(string(text), "configs", fmt.Sprintf("%d.json", serial.Add(1))))(t)
}

// pod is a sandbox made by crictl runp; it is removed with the test.
type pod struct {
	*node
	id, file string
	config   *runtime.PodSandboxConfig
}

func (n *node) pod(t *testing.T, change ...func(*runtime.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{node: n, config: n.podConfig(t, change...)}
	p.file = n.file(t, p.config)
	p.id = n.run(t, "runp", p.file)
	if len(p.id) != 64 {
		t.Errorf("a pod's id is 64 hex characters, got %q", p.id)
	}
	t.Cleanup(func() { n.remove(t, p.id) })
	return p
}

// remove stops and removes a pod, however far it is; one that has gone is a
// success (crictl would complain).
func (n *node) remove(t *testing.T, pod string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	_, err := n.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod})
	if err == nil {
		_, err = n.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod})
	}
	if err != nil {
		t.Errorf("removing pod %s: %v", pod, err)
	}
}

// container is a container made by crictl create.
type container struct {
	pod    *pod
	id     string
	config *runtime.ContainerConfig
}

func (p *pod) create(t *testing.T, command string, change ...func(*runtime.ContainerConfig)) *container {
	t.Helper()
	c := &container{pod: p, config: p.containerConfig(command, change...)}
	c.id = p.run(t, "create", p.id, p.node.file(t, c.config), p.file)
	return c
}

// start creates a container and starts it.
func (p *pod) start(t *testing.T, command string, change ...func(*runtime.ContainerConfig)) *container {
	t.Helper()
	c := p.create(t, command, change...)
	p.run(t, "start", c.id)
	return c
}

// output runs a command to its end in a new container and gives its log.
func (p *pod) output(t *testing.T, command string, change ...func(*runtime.ContainerConfig)) string {
	t.Helper()
	c := p.start(t, command, change...)
	c.exited(t)
	return c.log(t)
}

func (c *container) exec(t *testing.T, command string) string {
	t.Helper()
	return c.pod.run(t, "exec", "-s", c.id, "sh", "-c", command)
}

// status is the status by the API, whose types are easier to read than JSON.
func (c *container) status(t *testing.T) *runtime.ContainerStatus {
	t.Helper()
	r, err := c.pod.cri.Runtime.ContainerStatus(t.Context(), &runtime.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	ok(t, err)
	return r.Status
}

func (p *pod) status(t *testing.T) *runtime.PodSandboxStatus {
	t.Helper()
	r, err := p.cri.Runtime.PodSandboxStatus(t.Context(), &runtime.PodSandboxStatusRequest{PodSandboxId: p.id})
	ok(t, err)
	return r.Status
}

// exited waits for the container's end.
func (c *container) exited(t *testing.T) *runtime.ContainerStatus {
	t.Helper()
	var s *runtime.ContainerStatus
	eventually(t, "the container exits", func() bool {
		s = c.status(t)
		return s.State == runtime.ContainerState_CONTAINER_EXITED
	})
	return s
}

// pid is the container's init process as the node sees it.
func (c *container) pid(t *testing.T) int {
	t.Helper()
	return must(c.pod.cri.Pid(t.Context(), c.id))(t)
}

// logLine is a line of a CRI log: time, stream, whether it is whole, text.
type logLine struct {
	at                time.Time
	stream, tag, text string
}

func (c *container) lines(t *testing.T) []logLine {
	t.Helper()
	raw := must(os.ReadFile(filepath.Join(c.pod.config.LogDirectory, c.config.LogPath)))(t)
	var out []logLine
	for _, line := range strings.SplitAfter(string(raw), "\n") {
		if line == "" {
			continue
		}
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) != 4 {
			t.Fatalf("not a line of a CRI log: %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, parts[0])
		ok(t, err)
		out = append(out, logLine{at, parts[1], parts[2], parts[3]})
	}
	return out
}

// log is the text of both streams with whole lines restored.
func (c *container) log(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, l := range c.lines(t) {
		b.WriteString(l.text)
		if l.tag == "F" {
			b.WriteByte('\n')
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

//go:build kubelet

package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// static is a static pod: its manifest lies in the kubelet's directory and goes
// with the test.
type static struct {
	*node
	name string // as in the manifest; the kubelet adds the node's name
	uid  string // as in the manifest, so that a change of the manifest is an update
}

var (
	serial  atomic.Int64
	unnamed = regexp.MustCompile(`[^a-z0-9]+`)
)

// pod runs a pod with this spec, in which IMAGE stands for the usual image. A
// pod that does not say otherwise gets one second to end, or every test would
// wait half a minute for its shell to be killed.
func (n *node) pod(t *testing.T, spec string) *static {
	t.Helper()
	return n.annotated(t, "", spec)
}

// annotated is pod with further lines of metadata.
func (n *node) annotated(t *testing.T, metadata, spec string) *static {
	t.Helper()
	words := unnamed.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-")
	p := &static{node: n, name: fmt.Sprintf("%.30s-%d", strings.Trim(words, "-"), serial.Add(1))}
	p.uid = "uid-" + p.name
	t.Cleanup(func() {
		p.remove(t)
		if t.Failed() {
			t.Logf("the daemon's lines on it:\n%s", n.daemon.Grep(p.name, 15))
		}
	})
	p.write(t, metadata, spec)
	return p
}

// write replaces the manifest in one step, as a careful operator does.
func (p *static) write(t *testing.T, metadata, spec string) {
	t.Helper()
	if !strings.Contains(spec, "terminationGracePeriodSeconds") {
		spec += "\nterminationGracePeriodSeconds: 1"
	}
	spec = strings.ReplaceAll(spec, "IMAGE", world.image)
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: lab\n  uid: %s\n", p.name, p.uid)
	b.WriteString(indent(metadata) + "spec:\n" + indent(spec))
	hidden := filepath.Join(p.kubelet.Manifests, "."+p.name+".yaml") // the kubelet ignores it
	ok(t, os.WriteFile(hidden, []byte(b.String()), 0o644))
	ok(t, os.Rename(hidden, p.manifest()))
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		if strings.TrimSpace(line) != "" {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}

func (p *static) manifest() string { return filepath.Join(p.kubelet.Manifests, p.name+".yaml") }

func (p *static) fullName() string { return p.name + "-" + p.kubelet.Node }

// remove takes the manifest away and waits until nothing of the pod is left.
func (p *static) remove(t *testing.T) {
	t.Helper()
	if err := os.Remove(p.manifest()); os.IsNotExist(err) {
		return
	}
	p.gone(t)
}

// gone waits until the kubelet has forgotten the pod and nothing of it runs.
// What is dead is collected once a minute; TestTheNodeIsEmptyAtTheEnd looks.
func (p *static) gone(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		left = nil
		if pods, err := p.look(); err != nil || find(pods, p.fullName()) != nil {
			left = append(left, "the kubelet still has it")
		}
		for _, s := range p.sandboxes(t) {
			if s.State == runtime.PodSandboxState_SANDBOX_READY {
				left = append(left, fmt.Sprintf("sandbox %.12s is ready", s.Id))
			}
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("the pod's manifest has gone, but after 60 s: %s", strings.Join(left, "; "))
}

// sandboxes are the pod's sandboxes as the runtime lists them.
func (p *static) sandboxes(t *testing.T) []*runtime.PodSandbox {
	t.Helper()
	r, err := p.cri.Runtime.ListPodSandbox(background, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": p.uid},
	}})
	if err != nil {
		t.Errorf("listing sandboxes: %v", err)
	}
	return r.GetItems()
}

// containers are the pod's containers of this name as the runtime lists them.
func (p *static) containers(t *testing.T, name string) []*runtime.Container {
	t.Helper()
	r, err := p.cri.Runtime.ListContainers(background, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": p.uid, "io.kubernetes.container.name": name},
	}})
	ok(t, err)
	return r.Containers
}

func find(pods []pod, name string) *pod {
	for i := range pods {
		if pods[i].Metadata.Name == name {
			return &pods[i]
		}
	}
	return nil
}

// status is what the kubelet says of the pod now.
func (p *static) status(t *testing.T) *status {
	t.Helper()
	pods, err := p.look()
	ok(t, err)
	found := find(pods, p.fullName())
	if found == nil {
		return &status{}
	}
	return &found.Status
}

// until waits until the kubelet says so of the pod, and gives what it said.
func (p *static) until(t *testing.T, what string, is func(*status) bool) *status {
	t.Helper()
	var s *status
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
		if s = p.status(t); is(s) {
			return s
		}
	}
	t.Fatalf("waited 90 s in vain: %s; the kubelet says: %s", what, s)
	return nil
}

// ready waits until all containers are ready.
func (p *static) ready(t *testing.T) *status {
	t.Helper()
	return p.until(t, "the pod is ready", func(s *status) bool { return s.is("Ready") })
}

// exec runs a shell command in a container, which must succeed, by the
// kubelet. Words reach it whole: /run splits at spaces only.
func (p *static) exec(t *testing.T, container, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, 60*time.Second)
	defer cancel()
	out, err := p.kubelet.Exec(ctx, "lab", p.fullName(), container, "sh", "-c", strings.ReplaceAll(command, " ", "\t"))
	ok(t, err)
	return strings.TrimSpace(out)
}

// log is a container's output by the kubelet.
func (p *static) log(t *testing.T, container, query string) string {
	t.Helper()
	out, err := p.kubelet.Get(background, fmt.Sprintf("/containerLogs/lab/%s/%s?%s", p.fullName(), container, query))
	ok(t, err)
	return strings.TrimSpace(out)
}

// pid is the init process of a container.
func (p *static) pid(t *testing.T, container string) int {
	t.Helper()
	pid, err := p.cri.Pid(background, p.id(t, container))
	ok(t, err)
	return pid
}

// id is the container's id in the runtime.
func (p *static) id(t *testing.T, container string) string {
	t.Helper()
	_, id, found := strings.Cut(p.status(t).of(container).ContainerID, "troupe://")
	if !found {
		t.Fatalf("container %s has no id of ours: %q", container, p.status(t).of(container).ContainerID)
	}
	return id
}

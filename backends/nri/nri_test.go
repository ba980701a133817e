package nri

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func spec() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}, Env: []string{"A=1", "B=2"}},
		Mounts:  []specs.Mount{{Destination: "/data", Source: "/old"}},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
	}
}

func none(*specs.Spec, []string) error { return nil }

func TestAnAdjustmentReplacesAddsAndRemoves(t *testing.T) {
	s, a := spec(), &api.ContainerAdjustment{}
	a.AddEnv("B", "3")
	a.AddEnv("C", "4")
	a.RemoveEnv("A")
	a.AddMount(&api.Mount{Destination: "/data", Source: "/new", Type: "bind", Options: []string{"bind"}})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: 3})
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/gpu=0"})
	a.SetLinuxCPUSetCPUs("0")
	a.SetLinuxPidLimits(9)
	var injected []string
	r, err := apply(s, a, func(_ *specs.Spec, names []string) error { injected = names; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if env := strings.Join(s.Process.Env, " "); env != "B=3 C=4" {
		t.Errorf("the environment is %s", env)
	}
	if len(s.Mounts) != 1 || s.Mounts[0].Source != "/new" {
		t.Errorf("the mounts are %+v", s.Mounts)
	}
	if len(s.Linux.Devices) != 1 || len(s.Linux.Resources.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
		t.Errorf("the device is not there, or not allowed: %+v, %+v", s.Linux.Devices, s.Linux.Resources.Devices)
	}
	if len(injected) != 1 || injected[0] != "vendor.com/gpu=0" {
		t.Errorf("injected are %v", injected)
	}
	if r.GetCpusetCpus() != "0" || *s.Linux.Resources.Pids.Limit != 9 {
		t.Errorf("the resources are %v, the limit of pids %v", r, s.Linux.Resources.Pids)
	}
}

func TestWhatCannotBeAdjustedIsAnError(t *testing.T) {
	for what, set := range map[string]func(*api.ContainerAdjustment){
		"RDT":       func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") },
		"block I/O": func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("slow") },
		"cgroup":    func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/elsewhere") },
	} {
		a := &api.ContainerAdjustment{}
		set(a)
		if _, err := apply(spec(), a, none); messages.KindOf(err) != messages.Unsupported || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: the error is %v", what, err)
		}
	}
	if _, err := toCRI(&api.LinuxResources{RdtClass: api.String("gold"), Cpu: &api.LinuxCPU{Cpus: "0"}}); messages.KindOf(err) != messages.Unsupported {
		t.Errorf("an update of what cannot be updated: the error is %v", err)
	}
}

// node is a daemon with one pod.
type node struct{ containers []*messages.ContainerSnapshot }

func (n *node) View() messages.View { return view{node: n} }

func (n *node) Ask(context.Context, any) (any, error) { return messages.None{}, nil }

type view struct {
	messages.View // nil: what is not here is not asked for
	node          *node
}

func (view) Pods() []*messages.PodSnapshot {
	return []*messages.PodSnapshot{{ID: "p", Config: &runtime.PodSandboxConfig{}, State: messages.PodReady}}
}

func (v view) Pod(string) (*messages.PodSnapshot, error) { return v.Pods()[0], nil }

func (v view) Containers() []*messages.ContainerSnapshot { return v.node.containers }

func serve(t *testing.T, n *node) *Backend {
	t.Helper()
	dir := t.TempDir()
	b := New(Config{
		Socket: filepath.Join(dir, "nri", "nri.sock"), PluginDir: filepath.Join(dir, "plugins"), ConfigDir: filepath.Join(dir, "conf.d"),
		Registration: 5 * time.Second, Request: 5 * time.Second, Version: "1.0.0", Log: slog.New(slog.DiscardHandler),
		Spec: func(_, container string) string { return filepath.Join(dir, container) },
	})
	if err := b.Serve(n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	data, err := json.Marshal(spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shown"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

type observer struct{ synced chan []*api.Container }

func (o observer) Synchronize(_ context.Context, _ []*api.PodSandbox, all []*api.Container) ([]*api.ContainerUpdate, error) {
	o.synced <- all
	return nil, nil
}

// RunPodSandbox is what the library asks of every plugin: some handler.
func (observer) RunPodSandbox(context.Context, *api.PodSandbox) error { return nil }

func connect(t *testing.T, b *Backend) observer {
	t.Helper()
	o := observer{make(chan []*api.Container, 1)}
	s, err := stub.New(o, stub.WithPluginName("observer"), stub.WithPluginIdx("00"), stub.WithSocketPath(b.config.Socket))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return o
}

// What was asked about while no plugin was there is not published yet: a plugin
// that comes then must have it all the same.
func TestAPluginIsSynchronizedWithWhatIsNotPublishedYet(t *testing.T) {
	pod := backends.PluginPod{ID: "p", Config: &runtime.PodSandboxConfig{}}
	b := serve(t, &node{containers: []*messages.ContainerSnapshot{
		{ID: "shown", Pod: "p", State: messages.ContainerRunning, Config: &runtime.ContainerConfig{}},
		{ID: "ended", Pod: "p", State: messages.ContainerExited, Config: &runtime.ContainerConfig{}},
	}})
	for _, id := range []string{"making", "dropped", "ended"} {
		if _, err := b.Adjust(t.Context(), backends.BundleRequest{Pod: "p", Container: id, PodConfig: pod.Config, Config: &runtime.ContainerConfig{}}, spec(), none); err != nil {
			t.Fatal(err)
		}
	}
	b.Remove(t.Context(), backends.PluginContainer{ID: "dropped", Pod: pod})
	var ids []string
	for _, c := range <-connect(t, b).synced {
		ids = append(ids, c.GetId())
		if c.GetId() == "shown" && strings.Join(c.GetEnv(), " ") != "A=1 B=2" {
			t.Errorf("what its bundle says is not told: %v", c)
		}
	}
	if got := strings.Join(ids, " "); got != "making shown" {
		t.Errorf("it was synchronized with %s", got)
	}
}

func TestTheSocketIsRootsAloneAndGoesWithTheDaemon(t *testing.T) {
	b := serve(t, &node{})
	info, err := os.Stat(b.config.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is %v, %v", info, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.config.Socket); err == nil {
		t.Error("it is left behind")
	}
	if err := b.RunPod(t.Context(), backends.PluginPod{ID: "p"}); err != nil {
		t.Errorf("a pod after that: %v", err)
	}
}

func TestASocketThatCannotBeMadeSaysWhatToDo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := New(Config{Socket: filepath.Join(file, "nri.sock"), Registration: time.Second, Request: time.Second})
	if err := b.Serve(&node{}); err == nil || !strings.Contains(err.Error(), "enable_nri = false") {
		t.Errorf("the error is %v", err)
	}
}

func TestWithoutARequiredPluginNoContainerIsCreated(t *testing.T) {
	dir := t.TempDir()
	b := New(Config{
		PluginDir: filepath.Join(dir, "plugins"), Registration: time.Second, Request: time.Second, Version: "1.0.0",
		Validator: Validator{Enable: true, RequiredPlugins: []string{"gone"}, TolerateMissingAnnotation: "may-miss"},
		Spec:      func(_, container string) string { return filepath.Join(dir, container) }, Log: slog.New(slog.DiscardHandler),
	})
	if err := b.Serve(&node{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	pod := &runtime.PodSandboxConfig{}
	create := func() error {
		_, err := b.Adjust(t.Context(), backends.BundleRequest{Pod: "p", Container: "c", PodConfig: pod, Config: &runtime.ContainerConfig{}}, spec(), none)
		return err
	}
	if err := create(); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("the error is %v", err)
	}
	pod.Annotations = map[string]string{"may-miss": "true"}
	if err := create(); err != nil {
		t.Errorf("a pod that tolerates it: %v", err)
	}
}

package bundles

import (
	"path/filepath"
	"testing"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// with configures one handler.
func with(name string, h Handler) func(*Config) {
	return func(c *Config) { c.Handlers = map[string]Handler{name: h} }
}

func TestOnlyAllowedAnnotationsReachTheRuntime(t *testing.T) {
	b := newTest(t, testNode(t), with("crun", Handler{
		AllowedAnnotations: []string{"run.oci.keep_original_groups", "example.com/", "", "run.troupe."},
		DefaultAnnotations: map[string]string{"example.com/a": "operator", "run.oci.handler": "wasm"},
	}))
	r := request(t)
	r.PodConfig.Annotations = map[string]string{
		"run.oci.seccomp_bpf_data": "AAAA", "run.oci.hooks.stdout": "/etc/passwd", "run.oci.handler": "krun",
		"run.oci.keep_original_groups": "1", "example.com/b": "pod", "run.troupe.pod.name": "other",
	}
	r.Config.Annotations = map[string]string{"example.com/b": "container", "org.systemd.property.ExecStart": "x"}
	r.Handler = "crun"
	spec, _ := written(t, b, r)
	got := map[string]string{}
	for name, value := range spec.Annotations {
		if name != "run.troupe.pod.name" && len(name) > 11 && name[:11] == "run.troupe." {
			continue
		}
		got[name] = value
	}
	equal(t, "annotations", got, map[string]string{
		"run.oci.keep_original_groups": "1", "example.com/a": "operator", "example.com/b": "container",
		"run.oci.handler": "wasm", "run.troupe.pod.name": "web",
	})
	r.Handler = "runc"
	spec, _ = written(t, b, r)
	if len(spec.Annotations) != 7 {
		t.Errorf("what one handler allows reaches another: %v", spec.Annotations)
	}
}

func TestAHandlerCanKeepTheNodesDevicesFromPrivilegedContainers(t *testing.T) {
	b := newTest(t, testNode(t), with("own", Handler{PrivilegedWithoutHostDevices: true}))
	r := request(t)
	privileged(&r)
	spec, _ := written(t, b, r)
	if len(spec.Linux.Devices) == 0 || !spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("another handler: %v", spec.Linux.Devices)
	}
	r.Handler = "own"
	spec, _ = written(t, b, r)
	if len(spec.Linux.Devices) != 0 || spec.Linux.Resources.Devices[0].Allow {
		t.Errorf("devices %v, rules %+v", spec.Linux.Devices, spec.Linux.Resources.Devices)
	}
}

func TestAHandlerHasASeccompProfileOfItsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profile.json")
	put(t, file, `{"defaultAction":"SCMP_ACT_LOG"}`)
	b := newTest(t, testNode(t), with("own", Handler{SeccompProfile: file}))
	r := request(t)
	sc(&r).Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	spec, _ := written(t, b, r)
	if spec.Linux.Seccomp.DefaultAction == "SCMP_ACT_LOG" {
		t.Error("another handler has it too")
	}
	r.Handler = "own"
	spec, _ = written(t, b, r)
	if spec.Linux.Seccomp.DefaultAction != "SCMP_ACT_LOG" {
		t.Errorf("%+v", spec.Linux.Seccomp)
	}
	if _, err := newOn(testNode(t), Config{Root: t.TempDir(), Log: quiet(), Handlers: map[string]Handler{"x": {SeccompProfile: "/no/such"}}}); messages.KindOf(err) != messages.Invalid {
		t.Errorf("a profile that does not exist: %v", err)
	}
}

func TestAnExecBeginsOnTheFirstCPU(t *testing.T) {
	b := newTest(t, testNode(t), with("own", Handler{ExecCPUAffinity: "first"}))
	r := request(t)
	r.Handler = "own"
	if spec, _ := written(t, b, r); spec.Process.ExecCPUAffinity != nil {
		t.Errorf("without CPUs of its own: %+v", spec.Process.ExecCPUAffinity)
	}
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{CpusetCpus: "1-3,7"}
	if spec, _ := written(t, b, r); spec.Process.ExecCPUAffinity == nil || spec.Process.ExecCPUAffinity.Initial != "1" {
		t.Errorf("%+v", spec.Process.ExecCPUAffinity)
	}
}

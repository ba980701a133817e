package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// deviceNode is a node set for devices: CDI, hooks, ownership, annotations.
func deviceNode(t *testing.T) (n *node, cdi, hooks string) {
	t.Helper()
	cdi, hooks = t.TempDir(), t.TempDir()
	n = ownNode(t, func(o *harness.DaemonOptions) {
		o.Runtime = fmt.Sprintf(`
cdi_spec_dirs = [%q]
hooks_dir = [%q]
device_ownership_from_security_context = true
allowed_devices = ["/dev/zero"]
`, cdi, hooks)
		o.Extra = `
[crio.runtime.runtimes.libcontainer]
runtime_type = "libcontainer"
allowed_annotations = ["io.kubernetes.cri-o."]
`
	})
	n.leavesNothing(t)
	return n, cdi, hooks
}

func TestCDIDevicesHooksAndAnnotations(t *testing.T) {
	n, cdi, hooks := deviceNode(t)
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Annotations = map[string]string{
			"io.kubernetes.cri-o.Devices": "/dev/zero:/dev/nought:r", "io.kubernetes.cri-o.ShmSize": "3Mi", "io.trace": "on",
		}
	})
	gpu := func(c *runtime.ContainerConfig) {
		c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/gpu=0"}}
	}
	_, err := p.createErr(t, gpu)
	refused(t, err, code(codes.NotFound), "vendor.com/gpu=0", cdi)

	ok(t, os.WriteFile(filepath.Join(cdi, "gpu.json"), []byte(`{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","devices":[{"name":"0",
		"containerEdits":{"env":["GPU=zero"],"deviceNodes":[{"path":"/dev/gpu0","hostPath":"/dev/zero"}]}}]}`), 0o644))
	told := filepath.Join(t.TempDir(), "told")
	hook := filepath.Join(t.TempDir(), "hook")
	ok(t, os.WriteFile(hook, []byte("#!/bin/sh\ncat > "+told+"\n"), 0o755))
	ok(t, os.WriteFile(filepath.Join(hooks, "h.json"), []byte(`{"version":"1.0.0","hook":{"path":"`+hook+`"},"when":{"annotations":{"^io\\.trace$":"on"}},"stages":["createRuntime"]}`), 0o644))

	out := p.output(t, "head -c 3 /dev/gpu0 | wc -c; head -c 5 /dev/nought | wc -c; stat -c %u:%g /dev/mine; echo $GPU; df -m /dev/shm | tail -1",
		gpu, func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1234}, &runtime.Int64Value{Value: 44}
			c.Devices = []*runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mine", Permissions: "rw"}}
		})
	contains(t, "its log", out, "3\n5\n1234:44\nzero\n", " 3 ")
	contains(t, "what the hook was told", string(must(os.ReadFile(told))(t)), "io.trace", "creat")
}

func TestADirectoryOfDevicesAndPermissions(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	dir := hostDir(t, n, map[string]string{"readme": ""})
	for minor, name := range []string{"a", "b"} { // of a major that nobody has: opening fails behind the cgroup, not in it
		ok(t, unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(61, uint32(minor)))))
	}
	const look = "ls /dev/own; for d in a b; do (: < /dev/own/$d) 2>&1; (: > /dev/own/$d) 2>&1; done; true"
	out := p.output(t, look, func(c *runtime.ContainerConfig) {
		c.Devices = []*runtime.Device{{HostPath: dir, ContainerPath: "/dev/own", Permissions: "r"}}
	})
	contains(t, "reading is allowed and writing is not", out, "a\nb\n", "open /dev/own/a: No such device", "create /dev/own/a: Operation not permitted", "create /dev/own/b: Operation not permitted")
	if strings.Contains(out, "readme") {
		t.Errorf("a file that is no device was handed in: %s", out)
	}
	_, err := p.createErr(t, func(c *runtime.ContainerConfig) {
		c.Devices = []*runtime.Device{{HostPath: "/dev/none", ContainerPath: "/dev/x"}}
	})
	refused(t, err, code(codes.InvalidArgument), "/dev/none", "does not exist")
}

func TestAHugepageLimitThatNoControllerHoldsDoesNotKeepAPodFromStarting(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) {
		c.Linux.Resources.HugepageLimits = []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}, {PageSize: "1GB"}}
	})
}

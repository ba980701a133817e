package bundles

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The specs are run by the runtimes of Debian, on this kernel (make setup
// installs them): what they refuse, the monitor's would too.
func TestRealRuntimesRunTheSpec(t *testing.T) {
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			command := realRuntime(t, name)
			pod := podNamespaces(t)
			b, err := New(Config{Root: t.TempDir(), Log: quiet(), PidsLimit: 100, DefaultUlimits: []string{"nofile=512:512"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("Restricted", func(t *testing.T) { runRestricted(t, b, command, pod) })
			t.Run("Pause", func(t *testing.T) { runPause(t, b, command, pod) })
			t.Run("Privileged", func(t *testing.T) { runPrivileged(t, b, command, pod) })
		})
	}
}

func runRestricted(t *testing.T, b *Backend, command runner, pod messages.Namespaces) {
	r := runnable(t, pod)
	data := t.TempDir()
	put(t, filepath.Join(data, "greeting"), "from the host")
	r.Config.Args = []string{"-c", `
		id; echo "cwd $PWD host $(hostname) env $GREETING"; cat /data/greeting; echo
		grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ulimit -n
		touch /data/x 2>/dev/null || echo read-only volume
		touch /x 2>/dev/null || echo read-only root
		ls /dev/void; cat /etc/hostname; ls /sys/firmware | wc -l
		(echo 1 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo read-only sysctls
		df /dev/shm | tail -n1 | awk '{print $1}'; [ "$(readlink /proc/self/ns/net)" = "` + link(t, pod.Network) + `" ] && echo the pod network
		echo memory $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)`}
	r.Config.Envs = []*runtime.KeyValue{{Key: "GREETING", Value: []byte("hello")}}
	r.Config.WorkingDir = "/work/here"
	r.Config.Mounts = []*runtime.Mount{{ContainerPath: "/data", HostPath: data, Readonly: true, RecursiveReadOnly: true}}
	r.Config.Devices = []*runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/void", Permissions: "rw"}}
	s := sc(&r)
	s.RunAsUsername, s.SupplementalGroups, s.NoNewPrivs, s.ReadonlyRootfs = "app", []int64{2000}, true, true
	s.Seccomp = &runtime.SecurityProfile{}
	s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	r.Config.Linux.Resources = &runtime.LinuxContainerResources{CpuShares: 100, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500, HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB"}}}
	out := command.run(t, b, r)
	for _, want := range []string{
		"uid=1000(app) gid=1001(app)", "44(video)", "2000", "cwd /work/here host pod-host env hello", "from the host",
		"CapBnd:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2", "\n512\n", "read-only volume", "read-only root", "/dev/void", "\npod-host\n0\n",
		"read-only sysctls", "the pod network", "memory 67108864",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func runPrivileged(t *testing.T, b *Backend, command runner, pod messages.Namespaces) {
	r := runnable(t, pod)
	privileged(&r)
	r.Config.Args = []string{"-c", "grep CapBnd /proc/self/status; ls -d /dev/null /dev/vda /dev/loop0 2>/dev/null | head -n1; grep ' /sys ' /proc/mounts; : > /proc/sys/kernel/domainname && echo writable"}
	out := command.run(t, b, r)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, bounding, _ := strings.Cut(string(own), "CapBnd:")
	bounding, _, _ = strings.Cut(bounding, "\n")
	for _, want := range []string{"CapBnd:" + bounding, "/dev/", "sysfs rw", "writable"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// runPause runs a script in place of the monitor's pause.
func runPause(t *testing.T, b *Backend, command runner, pod messages.Namespaces) {
	r := runnable(t, pod)
	root := r.Rootfs
	r.Container, r.Config, r.Rootfs = r.Pod, nil, ""
	dir := filepath.Join(b.dir(r.Pod, r.Pod), "rootfs")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root, dir); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "pause"), "#!/bin/busybox sh\necho I am $$; grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; touch /x 2>/dev/null || echo read-only\n")
	if err := os.Chmod(filepath.Join(dir, "pause"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := command.run(t, b, r)
	for _, want := range []string{"I am 1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "read-only"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// runnable is a container of busybox.
func runnable(t *testing.T, pod messages.Namespaces) backends.BundleRequest {
	t.Helper()
	r := request(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: install busybox-static", err)
	}
	bin := filepath.Join(r.Rootfs, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"sh", "id", "hostname", "cat", "grep", "touch", "ls", "head", "wc", "df", "tail", "awk", "readlink"} {
		if err := os.Symlink("busybox", filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(r.Rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	put(t, filepath.Join(files, "hostname"), "pod-host\n")
	put(t, filepath.Join(files, "resolv.conf"), "nameserver 127.0.0.1\n")
	put(t, filepath.Join(files, "shm/x"), "")
	r.Files = backends.PodFiles{Hostname: filepath.Join(files, "hostname"), ResolvConf: filepath.Join(files, "resolv.conf"), Shm: filepath.Join(files, "shm")}
	r.Namespaces = pod
	r.PodConfig.Hostname = "pod-host"
	r.CgroupParent = fmt.Sprintf("/troupe-test-bundles-%d", os.Getpid())
	r.Config.Command = []string{"/bin/sh"}
	return r
}

// podNamespaces gives namespaces of their own, kept by a process that sleeps.
func podNamespaces(t *testing.T) messages.Namespaces {
	t.Helper()
	keeper := exec.Command("/bin/busybox", "sh", "-c", "hostname pod-host; echo; exec sleep 300")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	ready, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keeper.Process.Kill(); _ = keeper.Wait() })
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ns := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", keeper.Process.Pid, kind) }
	return messages.Namespaces{Network: ns("net"), IPC: ns("ipc"), UTS: ns("uts")}
}

func link(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// runner is a runtime's command line, up to its subcommand.
type runner []string

func realRuntime(t *testing.T, name string) runner {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: install the Debian package %s", err, name)
	}
	command := runner{path, "--root", t.TempDir()}
	if _, err := os.Stat("/sys/fs/cgroup/unified"); name == "crun" && err == nil {
		// crun refuses a hybrid v1 node with a controller in v2: it is shown
		// one without, in a mount namespace of its own.
		hide := `umount -l /sys/fs/cgroup/unified && exec "$@"`
		command = append(runner{"unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"}, command...)
	}
	return command
}

func (c runner) command(ctx context.Context, args ...string) *exec.Cmd {
	all := append(slices.Clone(c), args...)
	return exec.CommandContext(ctx, all[0], all[1:]...)
}

// run writes the bundle, runs it to its end and gives its output.
func (c runner) run(t *testing.T, b *Backend, r backends.BundleRequest) string {
	t.Helper()
	_, out := written(t, b, r)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	t.Cleanup(func() {
		_ = c.command(context.Background(), "delete", "--force", r.Container).Run()
		removeCgroups(r.CgroupParent)
	})
	cmd := c.command(ctx, "run", "--bundle", out.Dir, r.Container)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", c, err, output.String())
	}
	return output.String()
}

// removeCgroups removes the parent that the runtime made.
func removeCgroups(parent string) {
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, dir := range append(found, "/sys/fs/cgroup"+parent) {
		_ = os.Remove(dir)
	}
}

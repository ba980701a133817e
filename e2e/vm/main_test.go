//go:build vm

// Package vm tests Troupe as it is installed on a Debian node with systemd as
// process 1 and cgroup v2 alone: the units of packaging/, the systemd cgroup
// manager, slices as the kubelet names them. It changes the machine it runs
// on, so it is built by the tag vm only and run by e2e/vm.sh in a guest.
package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const socket = "/run/troupe/troupe.sock"

// The node is set up once.
var (
	cri    *harness.CRI
	crictl *harness.Crictl
	lab    *harness.Lab
	image  string
)

func TestMain(m *testing.M) {
	code := 1
	err := openLab()
	if err == nil && rebooted() { // it must be there by itself
		err = connect()
	} else if err == nil {
		err = setUp(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "setting up the node:", err)
		_ = command("journalctl", "--no-pager", "-n", "40", "-u", "troupe", "-u", "troupe-monitor") // for the reader
	} else {
		code = m.Run()
	}
	if lab != nil {
		if err := lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "tidying up:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func openLab() error {
	if info, err := os.Stat("/run/systemd/system"); err != nil || !info.IsDir() {
		return fmt.Errorf("systemd does not run here: use e2e/vm.sh")
	}
	base, err := os.MkdirTemp("", "lab")
	if err != nil {
		return err
	}
	if err := os.Setenv("TROUPE_LAB_DIR", base); err != nil {
		return err
	}
	lab, err = harness.NewLab()
	return err
}

func connect() (err error) {
	if cri, err = harness.Dial(socket); err != nil {
		return err
	}
	crictl, err = lab.NewCrictl(socket)
	return err
}

// setUp installs as an administrator would, and publishes an image.
func setUp(ctx context.Context) error {
	root, err := harness.ProjectRoot()
	if err != nil {
		return err
	}
	registry, err := lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return err
	}
	if err := command(root+"/packaging/install.sh", "", "/usr/local"); err != nil {
		return err
	}
	for path, content := range map[string]string{
		"/etc/troupe/troupe.conf.d/10-test.conf": fmt.Sprintf("[crio.image]\ninsecure_registries = [%q]\n[crio.runtime]\nlog_level = \"debug\"\n[crio.checkpoint_restore]\ncontainer_level_enabled = \"checkpoint_restore\"\n[troupe]\nsweep_grace = \"30s\"\n", registry.Host),
		"/etc/cni/net.d/10-test.conflist": `{"cniVersion": "1.0.0", "name": "test", "plugins": [
			{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
			 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
			{"type": "portmap", "capabilities": {"portMappings": true}}]}`,
	} {
		if err := write(path, content); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"daemon-reload"}, {"restart", "systemd-modules-load", "systemd-sysctl"}, {"enable", "--now", "troupe"}} {
		if err := command("systemctl", args...); err != nil {
			return err
		}
	}
	if err := connect(); err != nil {
		return err
	}
	made, err := harness.BuildImage(harness.ImageSpec{Cmd: []string{"sleep", "100000"}})
	if err != nil {
		return err
	}
	if image, err = registry.Push(ctx, "lab/busybox", "1", made); err != nil {
		return err
	}
	_, err = cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}})
	return err
}

func write(path, content string) error {
	if err := command("mkdir", "-p", path[:strings.LastIndexByte(path, '/')]); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// command runs a program of the node, which must succeed; its output is the test's.
func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// property is a property of a unit.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "-P", name, unit).Output()
	if err != nil {
		t.Fatalf("systemctl show -P %s %s: %v", name, unit, err)
	}
	return strings.TrimSpace(string(out))
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	ok(t, command("systemctl", args...))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// eventually is patient: the guest may be emulated.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited a minute in vain: %s", what)
}

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each test here is something that goes wrong on nodes. It must give one clear
// error with a fitting code, and (theNode looks) leave nothing behind.

// anyCode stands for: the text matters, the code is the registry's business.
var anyCode []codes.Code

func refused(t *testing.T, err error, want []codes.Code, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it succeeded")
	}
	if got := status.Code(err); len(want) > 0 && !slices.Contains(want, got) {
		t.Errorf("the code is %s, want %v: %v", got, want, err)
	}
	contains(t, "the error", err.Error(), parts...)
}

func code(c ...codes.Code) []codes.Code { return c }

func (n *node) runPod(t *testing.T, handler string, config *runtime.PodSandboxConfig) error {
	t.Helper()
	r, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err == nil {
		t.Cleanup(func() { n.remove(t, r.PodSandboxId) })
	}
	return err
}

func (p *pod) createErr(t *testing.T, change ...func(*runtime.ContainerConfig)) (string, error) {
	t.Helper()
	r, err := p.cri.Runtime.CreateContainer(t.Context(), &runtime.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config, Config: p.containerConfig("exec sleep 100000", change...),
	})
	return r.GetContainerId(), err
}

func TestAnUnknownHandlerIsRefused(t *testing.T) {
	n := theNode(t)
	refused(t, n.runPod(t, "no-such-handler", n.podConfig(t)), code(codes.InvalidArgument, codes.NotFound), "no-such-handler")
	equal(t, "pods", n.run(t, "pods", "-q"), "")
}

func TestAnUnknownImageIsRefused(t *testing.T) {
	n := theNode(t)
	absent := n.registry.Host + "/lab/absent:1"
	_, err := n.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: absent}})
	refused(t, err, code(codes.NotFound, codes.Unknown), "lab/absent")
	p := n.pod(t)
	_, err = p.createErr(t, func(c *runtime.ContainerConfig) { c.Image.Image = absent })
	refused(t, err, code(codes.NotFound), "lab/absent")
}

func TestAnImageWithAWrongDigestIsRefused(t *testing.T) {
	n := ownNode(t, nil)
	f := must(n.lab.StartFaulty(n.registry))(t)
	n2 := nodeWith(t, f.Host)
	n2.leavesNothing(t)
	ref := f.Host + "/lab/spoilt:1"
	img := must(harness.BuildImage(harness.ImageSpec{Ballast: []int{400_000}}))(t)
	must(n.registry.Push(t.Context(), "lab/spoilt", "1", img))(t)
	f.Set(harness.Corrupt)
	_, err := n2.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	refused(t, err, anyCode, "digest")
	equal(t, "images", len(n2.images(t)), 1)
	f.Set(harness.Healthy)
	n2.run(t, "pull", ref) // and it is fetched again, whole
}

// nodeWith is a node that may speak plain HTTP to one more registry.
func nodeWith(t *testing.T, registry string) *node {
	t.Helper()
	return ownNode(t, func(o *harness.DaemonOptions) { o.Insecure = append(o.Insecure, registry) })
}

func TestARegistryThatCutsTheConnection(t *testing.T) {
	n := ownNode(t, nil)
	f := must(n.lab.StartFaulty(n.registry))(t)
	n2 := nodeWith(t, f.Host)
	img := must(harness.BuildImage(harness.ImageSpec{Ballast: []int{700_000}}))(t)
	must(n.registry.Push(t.Context(), "lab/cut", "1", img))(t)
	ref := f.Host + "/lab/cut:1"
	f.Set(harness.Cut)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	_, err := n2.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	refused(t, err, anyCode, "lab/cut")
	equal(t, "images", len(n2.images(t)), 1)
	f.Set(harness.Healthy)
	n2.run(t, "pull", ref)
}

func TestARegistryThatHangsIsGivenUpAtTheCallersDeadline(t *testing.T) {
	n := ownNode(t, nil)
	f := must(n.lab.StartFaulty(n.registry))(t)
	n2 := nodeWith(t, f.Host)
	img := must(harness.BuildImage(harness.ImageSpec{Ballast: []int{800_000}}))(t)
	must(n.registry.Push(t.Context(), "lab/hang", "1", img))(t)
	f.Set(harness.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	_, err := n2.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: f.Host + "/lab/hang:1"}})
	refused(t, err, code(codes.DeadlineExceeded, codes.Canceled))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the caller waited %s for a deadline of 2 s", took)
	}
	equal(t, "images", len(n2.images(t)), 1)
	n2.pod(t) // and the node goes on meanwhile
}

func TestAFullDiskDuringAPull(t *testing.T) {
	n := ownNode(t, nil)
	small := must(n.lab.Mkdir("small"))(t)
	ok(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"))
	n2 := ownNode(t, func(o *harness.DaemonOptions) {
		o.Storage, o.Insecure = filepath.Join(small, "images"), append(o.Insecure, n.registry.Host)
	})
	free := func() uint64 {
		var st unix.Statfs_t
		ok(t, unix.Statfs(small, &st))
		return st.Bavail * uint64(st.Bsize)
	}
	before := free()
	for _, big := range []struct {
		name, complaint string
		spec            harness.ImageSpec
	}{
		{"too-big-to-fetch", "free", harness.ImageSpec{Ballast: []int{12 << 20}}},
		{"too-big-to-unpack", "no space left", harness.ImageSpec{Zeros: 32 << 20}},
	} {
		img := must(harness.BuildImage(big.spec))(t)
		ref := must(n.registry.Push(t.Context(), "lab/"+big.name, "1", img))(t)
		_, err := n2.cri.Image.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
		refused(t, err, code(codes.ResourceExhausted), big.complaint)
		equal(t, "images", len(n2.images(t)), 1)
		t.Cleanup(func() {
			if t.Failed() {
				left, _ := exec.Command("find", small, "-type", "f", "-size", "+32k").CombinedOutput()
				t.Logf("%s on the disk:\n%s", big.name, left)
			}
		})
		eventually(t, "the failed pull gives its space back", func() bool { return free()+256<<10 > before })
	}
	n2.pod(t).start(t, "exec sleep 100000") // what was there before still works
}

func TestAMissingMountSourceThatMustNotBeMadeIsRefused(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	file := filepath.Join(hostDir(t, n, map[string]string{"f": ""}), "f")
	_, err := p.createErr(t, mount(&runtime.Mount{HostPath: filepath.Join(file, "below"), ContainerPath: "/x"}))
	refused(t, err, code(codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.Internal), file)
	equal(t, "containers", n.run(t, "ps", "-a", "-q"), "")
}

func TestInvalidNamesAreRefused(t *testing.T) {
	n := theNode(t)
	for _, c := range []*runtime.PodSandboxConfig{
		nil,
		{},
		{Metadata: &runtime.PodSandboxMetadata{}},
		n.podConfig(t, func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "" }),
		n.podConfig(t, func(c *runtime.PodSandboxConfig) { c.Hostname = "white space" }),
		n.podConfig(t, func(c *runtime.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) }),
		n.podConfig(t, func(c *runtime.PodSandboxConfig) { c.LogDirectory = "relative/../path" }),
	} {
		refused(t, n.runPod(t, "", c), code(codes.InvalidArgument))
	}
	p := n.pod(t)
	for _, change := range []func(*runtime.ContainerConfig){
		func(c *runtime.ContainerConfig) { c.Metadata = nil },
		func(c *runtime.ContainerConfig) { c.Metadata.Name = "" },
		func(c *runtime.ContainerConfig) { c.Image = nil },
		func(c *runtime.ContainerConfig) { c.LogPath = "../../escape.log" },
	} {
		_, err := p.createErr(t, change)
		refused(t, err, code(codes.InvalidArgument))
	}
	equal(t, "containers", n.run(t, "ps", "-a", "-q"), "")
}

func TestANameThatIsTakenInThePodIsRefusedOrJoined(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	config := p.containerConfig("exec sleep 100000")
	request := &runtime.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: config}
	first, err := n.cri.Runtime.CreateContainer(t.Context(), request)
	ok(t, err)
	again, err := n.cri.Runtime.CreateContainer(t.Context(), request)
	if err == nil {
		equal(t, "the id a retry gets", again.ContainerId, first.ContainerId)
	} else {
		refused(t, err, code(codes.AlreadyExists), first.ContainerId[:12])
	}
	equal(t, "containers", len(strings.Fields(n.run(t, "ps", "-a", "-q"))), 1)
}

func TestAHostPortInUseIsRefused(t *testing.T) {
	n := theNode(t)
	l := must(net.Listen("tcp", "0.0.0.0:0"))(t)
	defer l.Close()
	taken := int32(l.Addr().(*net.TCPAddr).Port)
	err := n.runPod(t, "", n.podConfig(t, func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{ContainerPort: 80, HostPort: taken}}
	}))
	refused(t, err, code(codes.FailedPrecondition, codes.AlreadyExists, codes.ResourceExhausted, codes.Unavailable), fmt.Sprint(taken))
	equal(t, "pods", n.run(t, "pods", "-q"), "")
}

func TestTwoPodsWithTheSameHostPort(t *testing.T) {
	n := theNode(t)
	set := func(c *runtime.PodSandboxConfig) {
		c.PortMappings = []*runtime.PortMapping{{ContainerPort: 80, HostPort: 18181}}
	}
	n.pod(t, set)
	refused(t, n.runPod(t, "", n.podConfig(t, set)),
		code(codes.FailedPrecondition, codes.AlreadyExists, codes.ResourceExhausted, codes.Unavailable), "18181")
}

func TestACommandThatDoesNotExist(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	id, err := p.createErr(t, func(c *runtime.ContainerConfig) { c.Command = []string{"/no/such/command"} })
	ok(t, err)
	_, err = n.cri.Runtime.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: id})
	refused(t, err, anyCode, "/no/such/command", "no such file or directory")
	s := (&container{pod: p, id: id}).status(t)
	equal(t, "its state", s.State, runtime.ContainerState_CONTAINER_EXITED)
	equal(t, "its exit code", s.ExitCode, 128)
	equal(t, "its reason", s.Reason, "StartError")
	contains(t, "its message", s.Message, "/no/such/command")
}

func TestAnExecOfACommandThatDoesNotExist(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	_, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"nonesuch"}, Timeout: 10})
	refused(t, err, anyCode, "nonesuch")
}

func TestWithoutCNIConfigurationOnlyHostNetworkPodsRun(t *testing.T) {
	n := ownNode(t, nil)
	n.leavesNothing(t)
	ok(t, n.daemon.Network.Unconfigure())
	eventually(t, "the network is not ready", func() bool {
		r, err := n.cri.Runtime.Status(t.Context(), &runtime.StatusRequest{})
		ok(t, err)
		for _, c := range r.Status.Conditions {
			if c.Type == runtime.NetworkReady {
				return !c.Status && c.Message != ""
			}
		}
		return false
	})
	refused(t, n.runPod(t, "", n.podConfig(t)), code(codes.Unavailable, codes.FailedPrecondition), "network")
	host := &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}
	p := n.pod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname, c.Linux.SecurityContext = "", &runtime.LinuxSandboxSecurityContext{NamespaceOptions: host}
	})
	p.start(t, "exec sleep 100000", func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.NamespaceOptions = host })
	ok(t, n.daemon.Network.Configure())
	eventually(t, "pods have a network again", func() bool { return n.runPod(t, "", n.podConfig(t)) == nil })
}

// again starts the daemon's binary once more with a configuration.
func again(t *testing.T, config string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, must(harness.Tool("troupe"))(t), "--config", config).CombinedOutput()
	return string(out), err
}

func TestADaemonStartedTwiceLeavesTheFirstAlone(t *testing.T) {
	n := theNode(t)
	c := n.pod(t).start(t, "exec sleep 100000")
	out, err := again(t, n.daemon.Config)
	if err == nil {
		t.Fatal("a second daemon ran and ended well")
	}
	contains(t, "the second's complaint", out, "already")
	equal(t, "the first still works", c.exec(t, "echo yes"), "yes")
}

func TestAMissingMonitorIsNamed(t *testing.T) {
	lab := must(harness.NewLab())(t)
	t.Cleanup(func() { ok(t, lab.Close()) })
	d := must(lab.NewDaemon(harness.DaemonOptions{Monitor: filepath.Join(lab.Dir, "no-monitor")}))(t)
	out, err := again(t, d.Config)
	if err == nil {
		t.Fatal("the daemon ran without a monitor and ended well")
	}
	contains(t, "its complaint", out, filepath.Join(lab.Dir, "no-monitor"))
	if _, err := os.Stat(d.Socket); err == nil {
		t.Error("its socket was left behind")
	}
}

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// twoRuntimes configures Debian's crun and runc beside libcontainer, and two
// that cannot be used.
func twoRuntimes(o *harness.DaemonOptions) {
	o.Extra += `
[crio.runtime.runtimes.crun]
runtime_root = "/run/crun-of-` + o.Name + `"
allowed_annotations = ["e2e.example/"]
[crio.runtime.runtimes.runc]
container_min_memory = "64MiB"
[crio.runtime.runtimes.absent]
runtime_path = "/no/such/runtime"
[crio.runtime.runtimes.kata]
runtime_type = "vm"
`
}

// podOf is pod with a runtime handler.
func (n *node) podOf(t *testing.T, handler string, change ...func(*runtime.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{node: n, config: n.podConfig(t, change...)}
	p.file = n.file(t, p.config)
	p.id = n.run(t, "runp", "--runtime", handler, p.file)
	t.Cleanup(func() { n.remove(t, p.id) })
	return p
}

// life is what a kubelet sees of containers, in one text.
func life(t *testing.T, p *pod) string {
	t.Helper()
	var seen strings.Builder
	see := func(what string, v any) { fmt.Fprintf(&seen, "%s: %v\n", what, v) }
	end := func(what string, c *container) {
		s := c.exited(t)
		see(what, fmt.Sprint(s.ExitCode, " ", s.Reason))
	}
	see("log", p.output(t, "echo out; echo err >&2; printf no-newline"))
	end("exit 42", p.start(t, "exit 42"))
	end("killed", p.start(t, "sh -c 'kill -9 $$'; exit $?"))
	end("OOM", p.start(t, "exec tail /dev/zero", func(c *runtime.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 }))
	for _, command := range []string{"nosuch", "/no/such", "/etc"} {
		c := p.create(t, "", func(c *runtime.ContainerConfig) { c.Command = []string{command} })
		contains(t, "the error of "+command, p.fails(t, "start", c.id), command)
		end("start "+command, c)
	}
	heeds := p.start(t, "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done")
	eventually(t, "the trap is set", func() bool { return heeds.log(t) != "" })
	p.run(t, "stop", "-t", "30", heeds.id)
	end("heeds TERM", heeds)
	c := p.start(t, "trap '' TERM; exec sleep 100000")
	_, err := p.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "54321"}, Timeout: 1})
	see("exec timeout", status.Code(err))
	eventually(t, "the command has gone", func() bool { return !strings.Contains(c.exec(t, "ps"), "54321") })
	r, err := p.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "echo o; echo e >&2; exit 3"}})
	ok(t, err)
	see("exec", fmt.Sprintf("%q %q %d", r.Stdout, r.Stderr, r.ExitCode))
	see("security", c.exec(t, "grep -E '^(Cap|NoNewPrivs|Seccomp:|Sig(Ign|Blk))' /proc/1/status /proc/self/status | sed 's/.*status://'; id; umask; cat /proc/1/oom_score_adj"))
	see("mounts", c.exec(t, "cut -d' ' -f2 /proc/self/mounts | sort"))
	p.run(t, "stop", "-t", "1", c.id)
	end("ignores TERM", c)
	tty := p.start(t, "test -t 0 && test -t 1 && echo terminal", func(c *runtime.ContainerConfig) { c.Tty, c.Stdin = true, true })
	tty.exited(t)
	see("tty", tty.log(t))
	return seen.String()
}

func TestEveryHandlerShowsTheKubeletTheSame(t *testing.T) {
	n := ownNode(t, twoRuntimes)
	n.leavesNothing(t)
	want := life(t, n.podOf(t, "libcontainer"))
	t.Logf("libcontainer:\n%s", want)
	for _, part := range []string{"exit 42: 42 Error", "killed: 137 Error", "OOM: 137 OOMKilled", "start nosuch: 128 StartError", "heeds TERM: 7 Error", "exec timeout: DeadlineExceeded", "tty: terminal"} {
		contains(t, "libcontainer", want, part)
	}
	for _, handler := range []string{"crun", "runc"} {
		p := n.podOf(t, handler)
		equal(t, "the pod's handler", p.status(t).RuntimeHandler, handler)
		if got := life(t, p); got != want {
			t.Errorf("%s differs from libcontainer:\n%s", handler, difference(want, got))
		}
	}
}

// difference shows the lines that differ.
func difference(want, got string) string {
	var out strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			fmt.Fprintf(&out, "- %s\n+ %s\n", a, b)
		}
	}
	return out.String()
}

func TestHandlersOutliveTheDaemonSideBySide(t *testing.T) {
	n := ownNode(t, twoRuntimes)
	n.leavesNothing(t)
	handlers := []string{"libcontainer", "crun", "runc"}
	running, created, ends := map[string]*container{}, map[string]*container{}, map[string]*container{}
	pids := map[string]int{}
	stop := mount(&runtime.Mount{HostPath: must(n.lab.Mkdir("stop"))(t), ContainerPath: "/stop"})
	for _, h := range handlers {
		p := n.podOf(t, h)
		running[h] = p.start(t, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
		created[h] = p.create(t, "echo late; exit 5")
		ends[h] = p.start(t, "while [ ! -e /stop/now ]; do sleep 0.05; done; exit 23", stop)
		pids[h] = running[h].pid(t)
	}
	ok(t, n.daemon.Kill())
	must(n.lab.Write("", "stop", "now"))(t)
	ok(t, n.daemon.Start(t.Context()))
	for _, h := range handlers {
		equal(t, h+": the pid", running[h].pid(t), pids[h])
		equal(t, h+": the exit code that happened meanwhile", ends[h].exited(t).ExitCode, 23)
		n.run(t, "start", created[h].id)
		equal(t, h+": what was created before", created[h].exited(t).ExitCode, 5)
		equal(t, h+": its log", created[h].log(t), "late")
		equal(t, h+": exec", running[h].exec(t, "echo works"), "works")
		n.run(t, "stop", "-t", "0", running[h].id)
		if lines := running[h].lines(t); len(lines) == 0 || lines[len(lines)-1].text != fmt.Sprint(len(lines)) {
			t.Errorf("%s: a line of the log was lost or doubled", h)
		}
	}
}

func TestStatusOffersTheHandlersThatWork(t *testing.T) {
	n := ownNode(t, twoRuntimes)
	r, err := n.cri.Runtime.Status(t.Context(), &runtime.StatusRequest{})
	ok(t, err)
	features := map[string]*runtime.RuntimeHandlerFeatures{}
	for _, h := range r.RuntimeHandlers {
		features[h.Name] = h.Features
	}
	equal(t, "handlers", len(features), 4) // the default once more without a name
	equal(t, "runc: recursive read-only", features["runc"].GetRecursiveReadOnlyMounts(), true)
	if features["crun"] == nil || features["absent"] != nil || features["kata"] != nil {
		t.Errorf("offered: %v", features)
	}
	config := n.podConfig(t)
	for handler, code := range map[string]codes.Code{"absent": codes.FailedPrecondition, "kata": codes.InvalidArgument, "nonsense": codes.InvalidArgument} {
		_, err := n.cri.Runtime.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		equal(t, handler, status.Code(err), code)
		contains(t, handler, err.Error(), `"`+handler+`"`)
	}
	log := must(os.ReadFile(n.daemon.LogFile))(t)
	contains(t, "the daemon's log", string(log), "handler=absent", "runtimes.kata.runtime_type")
	p := n.podOf(t, "runc")
	complaint := p.fails(t, "create", p.id, n.file(t, p.containerConfig("true", func(c *runtime.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 63 << 20 })), p.file)
	contains(t, "a limit below container_min_memory", complaint, "container_min_memory", "67108864")
}

func TestAPodWhoseHandlerWasTakenAwayCanBeRemoved(t *testing.T) {
	n := ownNode(t, twoRuntimes)
	n.leavesNothing(t)
	p := n.podOf(t, "crun")
	c := p.start(t, "exec sleep 100000")
	ok(t, n.daemon.Kill())
	text := must(os.ReadFile(n.daemon.Config))(t)
	before, _, _ := strings.Cut(string(text), "[crio.runtime.runtimes.crun]")
	ok(t, os.WriteFile(n.daemon.Config, []byte(before), 0o600))
	ok(t, n.daemon.Start(t.Context()))
	equal(t, "the state", c.status(t).State, runtime.ContainerState_CONTAINER_RUNNING)
	equal(t, "exec", c.exec(t, "echo works"), "works")
	complaint := n.fails(t, "create", p.id, n.file(t, n.containerConfig("true")), p.file)
	contains(t, "a new container", complaint, "crun", "not usable")
	n.run(t, "stop", "-t", "0", c.id)
	equal(t, "its exit code", c.status(t).ExitCode, 137)
	ctx := context.WithoutCancel(t.Context())
	_, err := n.cri.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
	ok(t, err)
}

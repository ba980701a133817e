package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rotate renames the log as the kubelet does before ReopenContainerLog.
func rotate(t *testing.T, c *container) {
	t.Helper()
	path := filepath.Join(c.pod.config.LogDirectory, c.config.LogPath)
	ok(t, os.Rename(path, path+".old"))
}

// rotated are the lines of the renamed log.
func rotated(t *testing.T, c *container) []logLine {
	t.Helper()
	old := *c
	config := &runtime.ContainerConfig{LogPath: c.config.LogPath + ".old"}
	old.config = config
	return old.lines(t)
}

func TestExitCodesAndReasonsAreTold(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	for _, end := range []struct {
		command, reason string
		code            int32
	}{
		{"exit 0", "Completed", 0},
		{"exit 42", "Error", 42},
		{"kill -TERM $$; sleep 1", "Error", 143},
		{"kill -9 $$", "Error", 137},
	} {
		// Process 1 of a namespace is immune to its own signals, so a child dies.
		c := p.start(t, "sh -c '"+end.command+"'; exit $?")
		s := c.exited(t)
		equal(t, end.command+": exit code", s.ExitCode, end.code)
		equal(t, end.command+": reason", s.Reason, end.reason)
		if s.StartedAt <= 0 || s.FinishedAt < s.StartedAt || s.CreatedAt > s.StartedAt {
			t.Errorf("times out of order: created %d, started %d, finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
		}
	}
}

func TestAContainerThatHeedsTheStopSignalIsNotKilled(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done")
	eventually(t, "the trap is set", func() bool { return c.log(t) != "" })
	n.run(t, "stop", "-t", "30", c.id)
	equal(t, "its exit code", c.status(t).ExitCode, 7)
	contains(t, "its log", c.log(t), "bye")
}

func TestAContainerThatIgnoresTheStopSignalIsKilledAfterItsGrace(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "trap '' TERM; echo up; while :; do sleep 0.1; done")
	eventually(t, "the trap is set", func() bool { return c.log(t) != "" })
	begin := time.Now()
	n.run(t, "stop", "-t", "1", c.id)
	if took := time.Since(begin); took < time.Second {
		t.Errorf("a grace of 1 s was cut to %s", took)
	}
	equal(t, "its exit code", c.status(t).ExitCode, 137)
}

func TestExecTellsTheExitCodeAndBothStreams(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	r, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{
		ContainerId: c.id, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, Timeout: 10,
	})
	ok(t, err)
	equal(t, "stdout", string(r.Stdout), "out\n")
	equal(t, "stderr", string(r.Stderr), "err\n")
	equal(t, "exit code", r.ExitCode, 3)
}

func TestAnExecPastItsTimeoutIsKilled(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	c := p.start(t, "exec sleep 100000")
	_, err := n.cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{
		ContainerId: c.id, Cmd: []string{"sleep", "54321"}, Timeout: 1,
	})
	equal(t, "the code", status.Code(err), codes.DeadlineExceeded)
	eventually(t, "the command has gone", func() bool { return !strings.Contains(c.exec(t, "ps"), "54321") })
}

func TestEnvironmentWorkingDirectoryAndArguments(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	out := p.output(t, "", func(c *runtime.ContainerConfig) {
		c.Command, c.Args = []string{"sh", "-c", `echo "$FROM_IMAGE $GIVEN $1 $2"; pwd`, "sh"}, []string{"one", "two words"}
		c.Envs = []*runtime.KeyValue{{Key: "GIVEN", Value: []byte("a=b c")}}
		c.WorkingDir = "/made/on/demand"
	})
	equal(t, "what it sees", out, "yes a=b c one two words\n/made/on/demand")
}

func TestUsersAndGroups(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	id := "id -u; id -g; id -G"
	for _, who := range []struct {
		name string
		set  func(*runtime.LinuxContainerSecurityContext)
		want string
	}{
		{"nobody asked", func(*runtime.LinuxContainerSecurityContext) {}, "0\n0\n0 10"},
		{"by number", func(s *runtime.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 2000}
			s.SupplementalGroups = []int64{3000}
		}, "1000\n2000\n2000 3000"},
		{"by name", func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUsername = "worker" }, "1234\n1234\n1234"},
	} {
		out := p.output(t, id, func(c *runtime.ContainerConfig) { who.set(c.Linux.SecurityContext) })
		equal(t, who.name+": user, group, groups", out, who.want)
	}
}

func TestCapabilitiesAreAddedAndDropped(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	show := "grep CapEff /proc/self/status | cut -f2"
	set := func(f func(*runtime.LinuxContainerSecurityContext)) string {
		return p.output(t, show, func(c *runtime.ContainerConfig) { f(c.Linux.SecurityContext) })
	}
	none := set(func(s *runtime.LinuxContainerSecurityContext) {
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
	})
	equal(t, "with all dropped", none, "0000000000000000")
	one := set(func(s *runtime.LinuxContainerSecurityContext) {
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
	})
	equal(t, "with only NET_ADMIN (bit 12)", one, "0000000000001000")
	usual := set(func(*runtime.LinuxContainerSecurityContext) {})
	if usual == none || len(usual) != 16 {
		t.Errorf("without a wish: %s", usual)
	}
}

func TestAReadOnlyRootAndNoNewPrivileges(t *testing.T) {
	n := theNode(t)
	p := n.pod(t)
	out := p.output(t, "touch /x 2>&1; grep NoNewPrivs /proc/self/status | cut -f2", func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.ReadonlyRootfs, c.Linux.SecurityContext.NoNewPrivs = true, true
	})
	contains(t, "its log", out, "Read-only file system", "\n1")
}

//go:build vm

package vm

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// setClock sets the node's clock by so much.
func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	var now unix.Timespec
	ok(t, unix.ClockGettime(unix.CLOCK_REALTIME, &now))
	now = unix.NsecToTimespec(now.Nano() + by.Nanoseconds())
	ok(t, unix.ClockSettime(unix.CLOCK_REALTIME, &now))
}

// The clock of a node is set by NTP, by years where its battery is empty. What is
// due in a while is due in the same while, and nothing that runs or is kept
// depends on what the clock says.
func TestAClockThatIsSetChangesNothingThatRuns(t *testing.T) {
	p := newPod(t, "")
	runs, ended := p.start(t, "exec sleep 100000", nil), p.start(t, "exit 5", nil)
	pid := pidOf(t, runs)
	eventually(t, "the other ends", func() bool { return statusOf(t, ended).State == runtime.ContainerState_CONTAINER_EXITED })
	began, sum := time.Now(), time.Duration(0)
	t.Cleanup(func() { setClock(t, -sum) })
	for _, by := range []time.Duration{time.Hour, -30 * time.Hour, 400 * 24 * time.Hour, -3 * 365 * 24 * time.Hour} {
		setClock(t, by)
		sum += by
		checkSame(t, "after "+by.String(), runs, pid)
		equal(t, "the exit code of what has ended", statusOf(t, ended).ExitCode, 5)
		equal(t, "exec", execIn(t, runs, "echo here"), "here")

		at := time.Now()
		_, err := cri.Runtime.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: runs, Cmd: []string{"sleep", "1000"}, Timeout: 2})
		equal(t, "an exec with a limit of 2 s", status.Code(err), codes.DeadlineExceeded)
		if took := time.Since(at); took < 2*time.Second || took > 30*time.Second {
			t.Errorf("an exec with a limit of 2 s took %v", took)
		}
		stubborn := p.start(t, "trap '' TERM; while :; do sleep 1; done", nil)
		at = time.Now()
		_, err = cri.Runtime.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: stubborn, Timeout: 3})
		ok(t, err)
		if took := time.Since(at); took < 3*time.Second || took > 30*time.Second {
			t.Errorf("a stop with a grace of 3 s took %v", took)
		}
		_, err = cri.Runtime.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: stubborn})
		ok(t, err)
		t.Run("a new pod after "+by.String(), aNewPodGoesByTheClock)
		systemctl(t, "restart", "troupe")
		checkSame(t, "after a restart", runs, pid)
	}
	if out, err := crictl.Run(t.Context(), "ps"); err != nil || !strings.Contains(out, "Running") {
		t.Errorf("crictl ps: %v %s", err, out)
	}
	t.Logf("%v by the clock that nobody sets", time.Since(began).Round(time.Second))
}

func aNewPodGoesByTheClock(t *testing.T) {
	next := newPod(t, "")
	fresh := next.start(t, "exit 3", nil)
	eventually(t, "a new one ends", func() bool { return statusOf(t, fresh).State == runtime.ContainerState_CONTAINER_EXITED })
	st := statusOf(t, fresh)
	equal(t, "its exit code", st.ExitCode, 3)
	if st.FinishedAt < st.StartedAt || st.StartedAt < st.CreatedAt {
		t.Errorf("it was created at %d, started at %d and ended at %d", st.CreatedAt, st.StartedAt, st.FinishedAt)
	}
	if wall := time.Now().Round(0).UnixNano(); st.FinishedAt > wall || wall-st.FinishedAt > int64(time.Minute) {
		t.Errorf("it ended at %d, and it is %d: the daemon does not go by the clock", st.FinishedAt, wall)
	}
}

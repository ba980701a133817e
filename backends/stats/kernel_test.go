package stats

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// helper is what the test binary does when it is started in a cgroup.
const helper = "TROUPE_STATS_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		os.Exit(m.Run())
	case "burn": // CPU, until it is killed
		fmt.Println("ready")
		for n := uint64(1); n != 0; n += 2 {
		}
	case "hold": // memory and descriptors, until stdin ends
		held := make([]byte, 64<<20)
		for i := range held {
			held[i] = byte(i)
		}
		var pair [2]int
		if err := unix.Pipe(pair[:]); err != nil {
			panic(err)
		}
		if _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil {
			panic(err)
		}
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		runtime.KeepAlive(held)
		os.Exit(0)
	}
}

func meter(t testing.TB) *Meter {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("cgroups and namespaces need root")
	}
	m, err := New(Config{Root: t.TempDir()})
	ok(t, err)
	t.Cleanup(func() { ok(t, m.Close()) })
	return m
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func randomID(t testing.TB) string {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	ok(t, err)
	return hex.EncodeToString(b)
}

// world is a cgroup of its own on every hierarchy, named as a container's.
type world struct {
	pod  *messages.PodSnapshot
	id   string
	dirs []string // the container's
}

func (m *Meter) world(t testing.TB) *world {
	t.Helper()
	w := &world{id: randomID(t), pod: &messages.PodSnapshot{ID: randomID(t), CreatedAt: time.Now()}}
	w.pod.Cgroup = "/troupe-stats-" + w.pod.ID
	w.pod.Config = &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Uid: "u"}}
	seen := map[string]bool{}
	p := m.trees.ofPath(w.pod.Cgroup + "/troupe-" + w.id)
	if m.Unified() { // a v2 cgroup gets the controllers that its parent gives
		parent := filepath.Dir(p.v2)
		ok(t, os.Mkdir(parent, 0o755))
		ok(t, os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0o600))
	}
	for _, dir := range []string{p.cpu, p.cpuacct, p.memory, p.pids, p.blkio, p.huge, p.v2} {
		if dir == "" || seen[dir] {
			continue
		}
		seen[dir] = true
		ok(t, os.MkdirAll(dir, 0o755))
		w.dirs = append(w.dirs, dir)
		t.Cleanup(func() {
			for _, d := range []string{dir, filepath.Dir(dir)} {
				if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	return w
}

// run starts a helper in the cgroup; end kills it and waits.
func (w *world) run(t testing.TB, what string) (c *messages.ContainerSnapshot, end func()) {
	t.Helper()
	// A shell moves itself in before it becomes the helper.
	script := `for d in "$@"; do echo 0 > "$d/cgroup.procs" || exit 1; done; exec "$SELF"`
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, w.dirs...)...)
	self, err := os.Executable()
	ok(t, err)
	cmd.Env = append(os.Environ(), helper+"="+what, "SELF="+self, "GOMAXPROCS=1")
	in, err := cmd.StdinPipe()
	ok(t, err)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	cmd.Stderr = os.Stderr
	ok(t, cmd.Start())
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = in.Close()
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()         // "signal: killed" is what was asked for
		}
	}
	t.Cleanup(end)
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("the helper did not come up: %v", err)
	}
	return &messages.ContainerSnapshot{
		ID: w.id, Pod: w.pod.ID, Pid: cmd.Process.Pid, State: messages.ContainerRunning, StartedAt: time.Now(),
	}, end
}

func TestABusyContainerShowsItsCPU(t *testing.T) {
	m := meter(t)
	w := m.world(t)
	c, _ := w.run(t, "burn")
	before, err := m.Container(t.Context(), c, false)
	ok(t, err)
	var u messages.Usage
	for deadline := time.Now().Add(20 * time.Second); ; { // until it had a second of CPU, however busy the machine
		u, err = m.Container(t.Context(), c, true)
		ok(t, err)
		if u.CPU.Time.N > before.CPU.Time.N+uint64(time.Second) || time.Now().After(deadline) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if cores := u.CPU.NanoCores; !cores.Known || cores.N < 10_000_000 || cores.N > 2_500_000_000 {
		t.Errorf("nano cores of a loop: %+v", cores)
	}
	if u.CPU.User.N == 0 || !u.CPU.System.Known || u.CPU.User.N > u.CPU.Time.N+uint64(time.Second) {
		t.Errorf("user %+v, system %+v of %+v", u.CPU.User, u.CPU.System, u.CPU.Time)
	}
	if u.Processes.Count.N != 1 || u.Processes.Threads.N < 1 {
		t.Errorf("processes: %+v", u.Processes)
	}
	pod, own, err := m.Pod(t.Context(), w.pod, false)
	ok(t, err)
	if !own || pod.CPU.Time.N < u.CPU.Time.N || pod.Cgroup != w.pod.Cgroup {
		t.Errorf("the pod %+v has less than its container %+v, or is not its own (%v)", pod.CPU, u.CPU, own)
	}
}

func TestMemoryDescriptorsAndLimitsAreThoseOfTheCgroup(t *testing.T) {
	m := meter(t)
	w := m.world(t)
	place := m.trees.ofPath(w.pod.Cgroup + "/troupe-" + w.id)
	const limit = 256 << 20
	if place.memory != "" {
		ok(t, os.WriteFile(filepath.Join(place.memory, "memory.limit_in_bytes"), []byte(strconv.Itoa(limit)), 0o600))
	} else {
		ok(t, os.WriteFile(filepath.Join(place.v2, "memory.max"), []byte(strconv.Itoa(limit)), 0o600))
	}
	c, _ := w.run(t, "hold")
	u, err := m.Container(t.Context(), c, true)
	ok(t, err)
	if rss := u.Memory.RSS; rss.N < 64<<20 || rss.N > limit {
		t.Errorf("rss of a process that holds 64 MiB: %d", rss.N)
	}
	if u.Memory.WorkingSet.N < u.Memory.RSS.N/2 || u.Memory.Current.N < u.Memory.WorkingSet.N || u.Memory.Peak.N < u.Memory.RSS.N {
		t.Errorf("working set %d, usage %d, peak %d", u.Memory.WorkingSet.N, u.Memory.Current.N, u.Memory.Peak.N)
	}
	if got := u.Memory.Limit; got.N != limit || u.Memory.Available.N != limit-u.Memory.WorkingSet.N {
		t.Errorf("limit %+v, available %+v", got, u.Memory.Available)
	}
	if u.Memory.Faults.N < 1000 {
		t.Errorf("%d page faults for 64 MiB", u.Memory.Faults.N)
	}
	if p := u.Processes; p.Sockets.N < 1 || p.FileDescriptors.N < 6 || p.OpenFilesLimit.N == 0 {
		t.Errorf("descriptors: %+v", p)
	}
	if !u.CPU.Shares.Known && place.cpu != "" {
		t.Errorf("cpu: %+v", u.CPU)
	}
}

func TestWhatEndsMeanwhileIsNotFoundAndForgotten(t *testing.T) {
	m := meter(t)
	w := m.world(t)
	c, end := w.run(t, "hold")
	_, err := m.Container(t.Context(), c, false)
	ok(t, err)
	end()
	for _, dir := range w.dirs {
		ok(t, os.Remove(dir))
	}
	if _, err := m.Container(t.Context(), c, false); messages.KindOf(err) != messages.NotFound {
		t.Errorf("the cgroup has gone: %v", err)
	}
	if _, err := m.Container(t.Context(), c, false); messages.KindOf(err) != messages.NotFound {
		t.Errorf("the process has gone: %v", err)
	}
	if len(m.keep.of) != 0 {
		t.Errorf("still remembered: %v", m.keep.of)
	}
}

func TestAProcessOfSomebodyElseIsNotTheContainers(t *testing.T) {
	m := meter(t)
	c := &messages.ContainerSnapshot{ID: randomID(t), Pid: os.Getpid()}
	if _, err := m.Container(t.Context(), c, false); messages.KindOf(err) != messages.NotFound {
		t.Errorf("a number that was given to another process was measured: %v", err)
	}
}

func TestAMeasurementIsAnAnswerForTheCollectionPeriod(t *testing.T) {
	m := meter(t)
	m.keep.period = time.Hour
	w := m.world(t)
	c, _ := w.run(t, "hold")
	first, err := m.Container(t.Context(), c, false)
	ok(t, err)
	again, err := m.Container(t.Context(), c, false)
	ok(t, err)
	if first.Kept || !again.Kept || again.At != first.At {
		t.Errorf("measured at %s (kept: %v), then at %s (kept: %v)", first.At, first.Kept, again.At, again.Kept)
	}
	whole, err := m.Container(t.Context(), c, true)
	ok(t, err)
	if whole.Kept {
		t.Error("a short measurement answered for a whole one")
	}
	m.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	later, err := m.Container(t.Context(), c, false)
	ok(t, err)
	if later.Kept {
		t.Error("a measurement outlived the period")
	}
}

func TestAnEndedContextEndsTheMeasurement(t *testing.T) {
	m := meter(t)
	w := m.world(t)
	c, _ := w.run(t, "hold")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Container(ctx, c, true); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// The v2 tree beside v1 controllers has what a pure v2 node has of CPU and
// pressure, and no memory: that is not known then, and nothing has gone.
func TestOnV2WhatHasNoControllerIsNotKnown(t *testing.T) {
	m := meter(t)
	if m.trees.v2 == nil {
		t.Skip("no cgroup2 is mounted")
	}
	w := m.world(t)
	if _, v1 := m.trees.v1[memory]; !v1 {
		t.Skip("memory is on v2")
	}
	m.trees.v1 = map[string]tree{}
	c, _ := w.run(t, "burn")
	c.Config = &cri.ContainerConfig{Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 1024}}}
	var u messages.Usage
	for deadline := time.Now().Add(20 * time.Second); u.CPU.Time.N < uint64(200*time.Millisecond) && time.Now().Before(deadline); {
		var err error
		u, err = m.Container(t.Context(), c, true)
		ok(t, err)
	}
	if u.CPU.Time.N < uint64(200*time.Millisecond) || !u.CPU.User.Known || u.Processes.Count.N != 1 {
		t.Errorf("cpu %+v, processes %+v", u.CPU, u.Processes)
	}
	if u.CPU.Shares != messages.Measured(1024) {
		t.Errorf("shares, as they were asked for: %+v", u.CPU.Shares)
	}
	if u.Memory.Current.Known || u.Memory.WorkingSet.Known {
		t.Errorf("memory without its controller: %+v", u.Memory)
	}
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/blackout"
	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const socket = "/run/troupe/troupe.sock"

// agent is this program in the guest, a service beside Troupe's.
type agent struct {
	port   *blackout.Port
	plan   Plan
	cri    *harness.CRI
	ending atomic.Bool // the machine goes down: calls may fail
	calls  atomic.Int64
	due    chan bool // closed when the work has had as many answers as planned
}

func (a *agent) tell(e Event) {
	if e.Kind == "did" && a.due != nil && a.calls.Add(1) == int64(a.plan.Answers) {
		close(a.due)
	}
	a.port.Tell(func(after time.Duration) any {
		e.After = after
		return e
	})
}

// beAgent never returns: the host, or the machine's end, ends it.
func beAgent() {
	a := &agent{}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() { // at a reboot; what is under way is still told
		<-asked
		time.Sleep(2 * time.Second)
		os.Exit(0)
	}()
	err := a.open()
	if err == nil {
		err = a.obey(context.Background())
	}
	if err != nil && !a.ending.Load() {
		fmt.Fprintln(os.Stderr, "reboots:", err)
		if a.port != nil {
			a.tell(Event{Kind: "failed", Text: fmt.Sprintf("%v\njournal:\n%s", err, journal(60))})
		}
	}
	select {}
}

func (a *agent) open() (err error) {
	if err := blackout.Command("modprobe", "virtio_net"); err != nil {
		return err
	}
	if a.port, err = blackout.OpenPort(&a.plan); err != nil {
		return err
	}
	if err := blackout.Network(); err != nil {
		return err
	}
	if err := blackout.HasCache(); err != nil {
		return err
	}
	if a.cri, err = harness.Dial(socket); err != nil {
		return err
	}
	return blackout.FileSystemErrors()
}

// obey is a boot: see what the one before has left, see that the node can be
// used as if it were new, tidy up, and work until the end.
func (a *agent) obey(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, 6*time.Minute)
	defer cancel()
	if _, err := a.cri.Runtime.Version(wait, &runtime.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("the daemon does not answer: %w", err)
	}
	up := uptime()
	f, err := a.list(ctx)
	if err != nil {
		return err
	}
	a.tell(Event{Kind: "found", First: true, Found: f})
	if f, err = a.settled(ctx); err != nil {
		return err
	}
	f.Booted = up
	a.lookAround(ctx, f)
	a.tell(Event{Kind: "found", Found: f})
	if len(f.Images) == 0 || !contains(f.Images, a.plan.Image) {
		if err := a.pull(ctx, a.plan.Image); err != nil {
			return err
		}
	}
	if err := a.fill(ctx); err != nil {
		return err
	}
	if err := a.tidy(ctx); err != nil {
		return err
	}
	if !a.plan.Work {
		a.tell(Event{Kind: "done"})
		return nil
	}
	return a.work(ctx)
}

// settled waits until the daemon has found out what it has: starts that were
// cut off are undone, which is not done at once.
func (a *agent) settled(ctx context.Context) (f *Found, err error) {
	for end, same, before := time.Now().Add(time.Minute), 0, ""; ; time.Sleep(time.Second) {
		if f, err = a.list(ctx); err != nil {
			return nil, err
		}
		now := fmt.Sprint(f)
		if same++; now != before {
			same = 0
		}
		before = now
		if same >= 3 || time.Now().After(end) {
			return f, nil
		}
	}
}

func (a *agent) list(ctx context.Context) (*Found, error) {
	f := &Found{}
	pods, err := a.cri.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("ListPodSandbox: %w", err)
	}
	for _, p := range pods.Items {
		f.Pods = append(f.Pods, Pod{p.Id, p.Metadata.Name, p.Metadata.Attempt, p.State == runtime.PodSandboxState_SANDBOX_READY, p.CreatedAt})
	}
	containers, err := a.cri.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("ListContainers: %w", err)
	}
	for _, c := range containers.Containers {
		r, err := a.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.Id})
		if err != nil {
			continue // it has just been removed: a start that was cut off
		}
		s := r.Status
		f.Containers = append(f.Containers, Container{
			ID: s.Id, PodID: c.PodSandboxId, Name: s.Metadata.Name, State: s.State.String(), Reason: s.Reason, Message: s.Message,
			Code: s.ExitCode, Created: s.CreatedAt, Started: s.StartedAt, Finished: s.FinishedAt,
		})
	}
	images, err := a.cri.Image.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("ListImages: %w", err)
	}
	for _, i := range images.Images {
		f.Images = append(f.Images, i.RepoTags...)
	}
	return f, nil
}

// lookAround adds what systemd, the disk and `troupe check` say.
func (a *agent) lookAround(ctx context.Context, f *Found) {
	for unit, wanted := range map[string]map[string]string{
		"troupe":         {"ActiveState": "active", "NRestarts": "0"},
		"troupe-monitor": {"ActiveState": "active"},
	} {
		for name, want := range wanted {
			out, err := exec.CommandContext(ctx, "systemctl", "show", "-P", name, unit).Output()
			if got := strings.TrimSpace(string(out)); err != nil || got != want {
				f.Units = append(f.Units, fmt.Sprintf("%s of %s is %q, want %s (%v)", name, unit, got, want, err))
			}
		}
	}
	f.Aside, _ = filepath.Glob("/var/lib/troupe/quarantine/*")
	for _, path := range f.Aside {
		_ = os.Remove(path) // counted once
	}
	if out, err := exec.CommandContext(ctx, "troupe", "check").CombinedOutput(); err != nil {
		f.Check = fmt.Sprintf("%v: %s", err, out)
	}
	if err := blackout.FileSystemErrors(); err != nil {
		f.Units = append(f.Units, err.Error())
	}
}

func uptime() float64 {
	text, _ := os.ReadFile("/proc/uptime")
	first, _, _ := strings.Cut(string(text), " ")
	seconds, _ := strconv.ParseFloat(first, 64)
	return seconds
}

// journal is for the reader of a failure.
func journal(lines int) string {
	out, _ := exec.Command("journalctl", "--no-pager", "-o", "cat", "-n", strconv.Itoa(lines), "-u", "troupe", "-u", "troupe-monitor").Output()
	return string(out)
}

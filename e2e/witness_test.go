package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// witness is a pod that has nothing to do with what goes wrong beside it. It is
// asked things all the time, and must not notice.
type witness struct {
	*pod
	service *container
	lost    context.CancelFunc
	watcher sync.WaitGroup
	asking  sync.RWMutex // held for reading by whoever asks

	mu   sync.Mutex
	took map[string][]time.Duration // by what was asked, since the last calm or end
	errs []error

	usual time.Duration // the longest of before
}

// The longest a witness may wait for an answer. An answer takes milliseconds;
// the rest is for a machine that is busy with other things. What hangs on a
// fault waits for minutes.
const witnessPatience = 3 * time.Second

// witness starts one and asks it for a while, so that there is a before.
func (n *node) witness(t *testing.T) *witness {
	t.Helper()
	w := &witness{pod: n.pod(t), took: map[string][]time.Duration{}}
	w.service = w.start(t, "exec sleep 100000")
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w.lost = cancel
	for _, kind := range []struct {
		name  string
		pause time.Duration
		ask   func(context.Context) error
	}{
		{"status", 20 * time.Millisecond, w.askStatus},
		{"list", 50 * time.Millisecond, w.askList},
		{"exec", 100 * time.Millisecond, w.askExec},
		{"create", 300 * time.Millisecond, w.askCreate},
	} {
		w.watcher.Go(func() {
			for ctx.Err() == nil {
				w.ask(kind.name, kind.ask)
				time.Sleep(kind.pause)
			}
		})
	}
	t.Cleanup(func() { w.lost(); w.watcher.Wait() }) // before its pod goes
	time.Sleep(time.Second)
	w.noticed(t, "before the fault")
	return w
}

// pause calls f while the witness is asked nothing: for looks at the node, which
// would find what its creates make.
func (w *witness) pause(t *testing.T, f func()) {
	t.Helper()
	w.asking.Lock()
	defer w.asking.Unlock()
	f()
}

// ask measures one answer. What has begun is finished also when the test ends:
// a create must not be left half-way.
func (w *witness) ask(what string, f func(context.Context) error) {
	w.asking.RLock()
	defer w.asking.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	begin := time.Now()
	err := f(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took[what] = append(w.took[what], time.Since(begin))
	if err != nil {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", what, err))
	}
}

func (w *witness) askStatus(ctx context.Context) error {
	r, err := w.cri.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: w.service.id})
	if err == nil && r.Status.State != runtime.ContainerState_CONTAINER_RUNNING {
		err = fmt.Errorf("it is %v", r.Status.State)
	}
	return err
}

func (w *witness) askList(ctx context.Context) error {
	_, err := w.cri.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	return err
}

func (w *witness) askExec(ctx context.Context) error {
	r, err := w.cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: w.service.id, Cmd: []string{"echo", "here"}, Timeout: 30})
	if err == nil && string(r.Stdout) != "here\n" {
		err = fmt.Errorf("it printed %q and %q, code %d", r.Stdout, r.Stderr, r.ExitCode)
	}
	return err
}

// askCreate is a container's whole life.
func (w *witness) askCreate(ctx context.Context) error {
	c, err := w.cri.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: w.id, SandboxConfig: w.config, Config: w.containerConfig("exec sleep 100000"),
	})
	if err != nil {
		return err
	}
	if _, err := w.cri.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return err
	}
	if _, err := w.cri.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return err
	}
	_, err = w.cri.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ContainerId})
	return err
}

// noticed fails the test if the witness noticed anything since it was last
// asked. It waits until each kind of question was answered once more, so that
// one that hangs is found as well.
func (w *witness) noticed(t *testing.T, during string) {
	t.Helper()
	w.noticedWithin(t, during, witnessPatience)
}

func (w *witness) noticedWithin(t *testing.T, during string, patience time.Duration) {
	t.Helper()
	kinds := []string{"status", "list", "exec", "create"}
	end := time.Now().Add(patience + 2*time.Second)
	w.mu.Lock()
	had := map[string]int{}
	for _, k := range kinds {
		had[k] = len(w.took[k])
	}
	w.mu.Unlock()
	for {
		w.mu.Lock()
		var silent []string
		for _, k := range kinds {
			if len(w.took[k]) == had[k] {
				silent = append(silent, k)
			}
		}
		if len(silent) == 0 {
			break
		}
		w.mu.Unlock()
		if time.Now().After(end) {
			t.Errorf("%s: the witness waits for an answer to: %s", during, strings.Join(silent, ", "))
			w.mu.Lock()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	defer w.mu.Unlock()
	var told []string
	longest := time.Duration(0)
	for _, k := range kinds {
		all := w.took[k]
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		most := all[len(all)-1]
		told = append(told, fmt.Sprintf("%s %s/%s of %d", k, all[len(all)/2].Round(time.Millisecond), most.Round(time.Millisecond), len(all)))
		if w.usual == 0 { // this is before
			longest = max(longest, most)
		} else if limit := max(patience, 3*w.usual); most > limit {
			t.Errorf("%s: the witness waited %s for %s, at most %s are allowed", during, most.Round(time.Millisecond), k, limit)
		}
	}
	for _, err := range w.errs {
		t.Errorf("%s: the witness was refused: %v", during, err)
	}
	t.Logf("%s: median/longest: %s", during, strings.Join(told, ", "))
	clear(w.took)
	w.errs, w.usual = nil, max(w.usual, longest)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is the machine under test.
type node struct {
	options
	lab    *harness.Lab
	daemon *harness.Daemon
	cri    *harness.CRI
	images []string // the first stays, the others come and go
	tally  tally

	// mu keeps a measurement and a kill apart.
	mu sync.Mutex
}

// tally counts; findings are what must not be.
type tally struct {
	mu                                        sync.Mutex
	pods, containers, execs, rotations, pulls int
	daemonKills, monitorKills                 int
	killed                                    time.Time // the last
	retries, unknown, invented                int
	checked, lost                             int64
	findings                                  []string
	complaints                                map[string]int
}

func (t *tally) add(what *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*what++
}

func (t *tally) find(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := time.Now().Format("15:04:05.000 ") + fmt.Sprintf(format, args...)
	fmt.Println("found:", text)
	t.findings = append(t.findings, text)
}

// churned is how many images come and go.
const churned = 4

func newNode(ctx context.Context, o options) (*node, error) {
	lab, err := harness.NewLab()
	if err != nil {
		return nil, err
	}
	n := &node{options: o, lab: lab}
	n.tally.complaints = map[string]int{}
	if err := n.start(ctx); err != nil {
		lab.Abandon = true
		return nil, errors.Join(err, lab.Close())
	}
	return n, nil
}

func (n *node) start(ctx context.Context) error {
	registry, err := n.lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return err
	}
	network, err := n.lab.NewNetwork()
	if err != nil {
		return err
	}
	if err := network.Configure(); err != nil {
		return err
	}
	n.daemon, err = n.lab.NewDaemon(harness.DaemonOptions{
		Network: network, Insecure: []string{registry.Host}, LogLevel: "info", Storage: n.lab.Path("node", "images"),
	})
	if err != nil {
		return err
	}
	if err := n.daemon.Start(ctx); err != nil {
		return err
	}
	if n.cri, err = harness.Dial(n.daemon.Socket); err != nil {
		return err
	}
	n.lab.OnClose(func() error { n.cri.Close(); return nil })
	for i := range 1 + churned {
		spec := harness.ImageSpec{Cmd: []string{"sleep", "100000"}}
		if i > 0 {
			spec.Ballast = []int{200_000 * i, 3000 + i}
		}
		made, err := harness.BuildImage(spec)
		if err != nil {
			return err
		}
		ref, err := registry.Push(ctx, fmt.Sprintf("lab/soak-%d", i), "1", made)
		if err != nil {
			return err
		}
		n.images = append(n.images, ref)
	}
	// All once: what the library makes on its first pull and keeps is no leftover.
	for _, ref := range n.images {
		if err := n.pull(ctx, ref); err != nil {
			return err
		}
	}
	return n.removeImages(ctx)
}

// surveyor looks at everything that could be left, images among it.
func (n *node) surveyor() harness.Surveyor {
	s := n.daemon.Surveyor()
	storage := n.lab.Path("node", "images")
	s.Files = append(s.Files, filepath.Join(n.daemon.Run, "monitor", "containers"), filepath.Join(n.daemon.Run, "monitor", "exits"),
		filepath.Join(n.daemon.Run, "monitor", "state"), filepath.Join(n.daemon.Root, "quarantine"), filepath.Join(n.daemon.Root, "cni"),
		filepath.Join(storage, "overlay"), filepath.Join(storage, "overlay-images"), filepath.Join(storage, "overlay-layers"))
	return s
}

// churn keeps the load on for a while; what has begun then is ended.
func (n *node) churn(ctx context.Context, phase string, length time.Duration, kill bool) error {
	fmt.Printf("soak: %s, %s\n", phase, length.Round(time.Second))
	end := time.Now().Add(length)
	var slots, others sync.WaitGroup
	done := make(chan struct{})
	for slot := range n.pods {
		dice := rand.New(rand.NewPCG(n.seed, uint64(slot)<<8|uint64(len(phase))))
		slots.Go(func() {
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				n.life(ctx, fmt.Sprintf("%s-%d-%d", phase, slot, i), dice)
			}
		})
	}
	others.Go(func() { n.report(done, phase, end) })
	var failed error
	if kill {
		others.Go(func() { failed = n.killAbout(ctx, end) })
	}
	slots.Wait()
	close(done)
	others.Wait()
	return errors.Join(failed, ctx.Err())
}

func (n *node) report(done <-chan struct{}, phase string, end time.Time) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		t := &n.tally
		t.mu.Lock()
		fmt.Printf("soak: %s, %s to go: %d pods, %d kills of the daemon, %d of the monitor, %d retries, %d bytes lost, %d exits invented; last complaints: %s\n",
			phase, time.Until(end).Round(time.Second), t.pods, t.daemonKills, t.monitorKills, t.retries, t.lost, t.invented, t.worst())
		t.mu.Unlock()
	}
}

// worst are the most frequent refusals since the last time, for people.
func (t *tally) worst() string {
	keys := slices.SortedFunc(maps.Keys(t.complaints), func(a, b string) int { return t.complaints[b] - t.complaints[a] })
	var out []string
	for _, k := range keys[:min(3, len(keys))] {
		out = append(out, fmt.Sprintf("%d× %s", t.complaints[k], k))
	}
	clear(t.complaints)
	return strings.Join(out, " | ")
}

// insistence is how long a call may be refused before that is a finding, counted
// from the last kill: what a daemon's death cuts off begins anew, and a kubelet
// asks again without end.
const insistence = 3 * time.Minute

// errNotYet is no refusal: what is waited for has not come yet.
var errNotYet = errors.New("not yet")

// insist asks until it is answered well, as a kubelet does. It says whether it was.
func (n *node) insist(ctx context.Context, what string, f func(context.Context) error) bool {
	begin := time.Now()
	for ctx.Err() == nil {
		within, cancel := context.WithTimeout(ctx, time.Minute)
		err := f(within)
		cancel()
		if err == nil {
			return true
		}
		if errors.Is(err, errNotYet) {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		t := &n.tally
		t.mu.Lock()
		t.retries++
		text := err.Error()
		t.complaints[strings.Fields(what)[0]+": "+status.Code(err).String()+": "+text[max(0, len(text)-160):]]++
		t.mu.Unlock()
		if last := n.lastKill(); last.After(begin) {
			begin = last
		}
		if time.Since(begin) > insistence {
			n.tally.find("%s was refused for %s: %v", what, insistence, err)
			return false
		}
		time.Sleep(200 * time.Millisecond)
	}
	return false
}

func is(err error, c codes.Code) bool { return status.Code(err) == c }

func (n *node) pull(ctx context.Context, ref string) error {
	if n.insist(ctx, "pull "+ref, func(ctx context.Context) error {
		_, err := n.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}})
		return err
	}) {
		n.tally.add(&n.tally.pulls)
		return nil
	}
	return fmt.Errorf("image %s could not be pulled", ref)
}

func (n *node) removeImages(ctx context.Context) error {
	for _, ref := range n.images[1:] {
		if !n.insist(ctx, "remove image "+ref, func(ctx context.Context) error { return n.removeImage(ctx, ref) }) {
			return fmt.Errorf("image %s could not be removed", ref)
		}
	}
	return nil
}

func (n *node) removeImage(ctx context.Context, ref string) error {
	_, err := n.cri.Image.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: ref}})
	return err
}

func (n *node) logDir(name string) (string, error) {
	dir := n.lab.Path("logs", name)
	return dir, os.MkdirAll(dir, 0o755)
}

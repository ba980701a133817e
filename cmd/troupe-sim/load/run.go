// Package load drives a CRI socket with pods and measures the runtime behind
// it: how long each call takes as a caller sees it, what a burst of starts costs
// the machine, and what the runtime's own processes use and hold meanwhile. It
// knows nothing of any one runtime.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options say what to do to whom.
type Options struct {
	Socket, Image, Handler string
	CgroupParent, LogDir   string
	// Present are the numbers of pods that are there while it is measured,
	// ascending: one level each.
	Present []int
	Lives   int // pods run through a whole life on each level, one at a time
	Execs   int // of each life
	Lists   int // calls of each kind of list on each level
	// Burst is how many pods are started and then removed, Callers at a time, on
	// the levels from BurstFrom on.
	Burst, Callers, BurstFrom int
	Idle                      time.Duration // how long the runtime is watched while a kubelet only lists
	Processes                 []string      // names of the runtime's binaries
	Progress                  func(string)  // may be nil
	// After is called when a level has been measured, its pods still there; may be nil.
	After func(context.Context, Level) error
}

// Run does all of it. It leaves no pod of its own behind, whatever happens.
func Run(ctx context.Context, o Options) (*Report, error) {
	conn, err := grpc.NewClient("unix://"+o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	d := &driver{
		Options: o, prefix: fmt.Sprintf("load-%x", time.Now().UnixNano()),
		runtime: runtime.NewRuntimeServiceClient(conn), image: runtime.NewImageServiceClient(conn),
	}
	version, err := d.runtime.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("no CRI runtime answers on %s: %w", o.Socket, err)
	}
	defer d.sweep(context.WithoutCancel(ctx))
	if err := d.pull(ctx); err != nil {
		return nil, err
	}
	if err := d.lives(ctx, 2, newRecorder()); err != nil {
		return nil, fmt.Errorf("warming up: %w", err)
	}
	report := &Report{Runtime: version.RuntimeName, Version: version.RuntimeVersion}
	for _, present := range o.Present {
		o.Progress(fmt.Sprintf("with %d pods", present))
		level, err := d.level(ctx, present)
		if err != nil {
			return nil, fmt.Errorf("with %d pods: %w", present, err)
		}
		report.Levels = append(report.Levels, level)
		if o.After != nil {
			if err := o.After(ctx, level); err != nil {
				return nil, fmt.Errorf("with %d pods: %w", present, err)
			}
		}
	}
	o.Progress("removing them")
	return report, d.downAll(ctx, d.held, newRecorder())
}

// driver drives one runtime.
type driver struct {
	Options
	runtime runtime.RuntimeServiceClient
	image   runtime.ImageServiceClient
	prefix  string // of all pods' uids, so that the sweep finds them
	next    atomic.Int64
	held    []pair
}

type pair struct{ pod, container string }

func (d *driver) pull(ctx context.Context) error {
	_, err := d.image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: d.Image}})
	if err != nil {
		return fmt.Errorf("pulling %s: %w", d.Image, err)
	}
	return nil
}

// level brings up what is missing to so many pods and measures with them.
func (d *driver) level(ctx context.Context, present int) (l Level, err error) {
	l.Present = present
	// Several at a time: this is not measured.
	more, err := d.upAll(ctx, present-len(d.held), 4, newRecorder())
	d.held = append(d.held, more...)
	if err != nil {
		return l, err
	}
	if err := pause(ctx, settle); err != nil { // let garbage collectors and start-up helpers settle
		return l, err
	}
	if l.Busy, err = d.others(ctx); err != nil {
		return l, err
	}
	if l.Memory, err = measure(d.Processes); err != nil {
		return l, err
	}
	if l.Idle, err = d.idle(ctx); err != nil {
		return l, fmt.Errorf("listing once a second: %w", err)
	}
	rec := newRecorder()
	if err := d.lists(ctx, rec); err != nil {
		return l, err
	}
	if err := d.lives(ctx, d.Lives, rec); err != nil {
		return l, err
	}
	if d.Burst > 0 && present >= d.BurstFrom {
		if l.Burst, err = d.burst(ctx); err != nil {
			return l, fmt.Errorf("%d pods, %d at a time: %w", d.Burst, d.Callers, err)
		}
	}
	l.Calls = rec.stats()
	return l, nil
}

const settle = 3 * time.Second

// others is how many cores are used by something else than the runtime, which
// may have work of its own also when nobody asks for anything.
func (d *driver) others(ctx context.Context) (float64, error) {
	before, err := CPUOf(d.Processes)
	if err != nil {
		return 0, err
	}
	cores, err := BusyCores(ctx, time.Second)
	if err != nil {
		return 0, err
	}
	after, err := CPUOf(d.Processes)
	return max(0, cores-(after-before).Seconds()), err
}

// lives runs n pods through their lives, one after the other.
func (d *driver) lives(ctx context.Context, n int, rec *recorder) error {
	for range n {
		p, err := d.up(ctx, rec)
		if err != nil {
			return err
		}
		for range d.Execs {
			if err := d.exec(ctx, rec, p.container); err != nil {
				return err
			}
		}
		if err := d.down(ctx, rec, p); err != nil {
			return err
		}
	}
	return nil
}

// burst starts pods, several at a time, and removes them.
func (d *driver) burst(ctx context.Context) (*Burst, error) {
	b := &Burst{Pods: d.Burst, Callers: d.Callers}
	var pods []pair
	rec := newRecorder()
	err := b.Start.over(func() (err error) {
		pods, err = d.upAll(ctx, d.Burst, d.Callers, rec)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := b.Stop.over(func() error { return d.downAll(ctx, pods, rec) }); err != nil {
		return nil, err
	}
	b.Calls = rec.stats()
	return b, nil
}

// upAll starts n pods, callers at a time. Also after an error it gives those
// that are up.
func (d *driver) upAll(ctx context.Context, n, callers int, rec *recorder) (all []pair, err error) {
	var mu sync.Mutex
	err = each(ctx, max(0, n), callers, func(ctx context.Context, _ int) error {
		p, err := d.up(ctx, rec)
		if err == nil {
			mu.Lock()
			all = append(all, p)
			mu.Unlock()
		}
		return err
	})
	return all, err
}

func (d *driver) downAll(ctx context.Context, pods []pair, rec *recorder) error {
	return each(ctx, len(pods), max(1, d.Callers), func(ctx context.Context, i int) error { return d.down(ctx, rec, pods[i]) })
}

// each does n things, so many at a time; the first error ends it.
func each(ctx context.Context, n, atATime int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, atATime)
	var next atomic.Int64
	for i := range atATime {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= n {
					return
				}
				if errs[i] = do(ctx, k); errs[i] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return ctx.Err()
}

// idle watches what the runtime uses while a kubelet finds nothing to do: it
// lists pods and containers each second, and asks for the status each fifth.
func (d *driver) idle(ctx context.Context) (*Idle, error) {
	if d.Idle <= 0 {
		return nil, nil
	}
	before, err := CPUOf(d.Processes)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	for second := 0; time.Since(started) < d.Idle; second++ {
		if _, err := d.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{}); err != nil {
			return nil, err
		}
		if _, err := d.runtime.ListContainers(ctx, &runtime.ListContainersRequest{}); err != nil {
			return nil, err
		}
		if second%5 == 0 {
			if _, err := d.runtime.Status(ctx, &runtime.StatusRequest{}); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, time.Until(started.Add(time.Duration(second+1)*time.Second))); err != nil {
			return nil, err
		}
	}
	after, err := CPUOf(d.Processes)
	return &Idle{Seconds: time.Since(started).Seconds(), CPUSeconds: (after - before).Seconds()}, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

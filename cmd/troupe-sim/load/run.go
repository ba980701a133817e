// Package load drives a CRI socket with pods and measures the runtime behind
// it: the latency of each call as a caller sees it, and the memory of the
// runtime's own processes. It knows nothing of any one runtime.
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
	Pods, Callers          int // whole lives; at a time
	Execs, Warmup          int
	Hold                   []int    // numbers of pods, ascending
	Processes              []string // names of the runtime's binaries
}

// Run does all of it. It leaves no pod of its own behind, whatever happens.
func Run(ctx context.Context, o Options) (*Report, error) {
	conn, err := grpc.NewClient("unix://"+o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	d := &driver{
		Options: o, recorder: newRecorder(), prefix: fmt.Sprintf("load-%x", time.Now().UnixNano()),
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
	if err := d.lives(ctx, o.Warmup, 1, newRecorder()); err != nil {
		return nil, fmt.Errorf("warming up: %w", err)
	}
	start := time.Now()
	if err := d.lives(ctx, o.Pods, max(1, o.Callers), d.recorder); err != nil {
		return nil, err
	}
	report := &Report{
		Runtime: version.RuntimeName, Version: version.RuntimeVersion, Pods: o.Pods, Callers: max(1, o.Callers),
		Seconds: time.Since(start).Seconds(), Calls: d.recorder.stats(),
	}
	report.Memory, err = d.hold(ctx)
	return report, err
}

// driver drives one runtime.
type driver struct {
	Options
	runtime  runtime.RuntimeServiceClient
	image    runtime.ImageServiceClient
	recorder *recorder
	prefix   string // of all pods' uids, so that the sweep finds them
	next     atomic.Int64
}

func (d *driver) pull(ctx context.Context) error {
	_, err := d.image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: d.Image}})
	if err != nil {
		return fmt.Errorf("pulling %s: %w", d.Image, err)
	}
	return nil
}

// lives runs n pods through their lives, callers of them at a time.
func (d *driver) lives(ctx context.Context, n, callers int, rec *recorder) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, callers)
	var left atomic.Int64
	left.Store(int64(n))
	for i := range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				if errs[i] = d.life(ctx, rec); errs[i] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// life is one pod from RunPodSandbox to RemovePodSandbox.
func (d *driver) life(ctx context.Context, rec *recorder) error {
	pod, container, err := d.up(ctx, rec)
	if err != nil {
		return err
	}
	for range d.Execs {
		if err := d.exec(ctx, rec, container); err != nil {
			return err
		}
	}
	return d.down(ctx, rec, pod, container)
}

// hold brings up pods step by step and measures memory at each step.
func (d *driver) hold(ctx context.Context) ([]Memory, error) {
	var out []Memory
	type pair struct{ pod, container string }
	var held []pair
	idle := newRecorder()
	for _, want := range d.Hold {
		for len(held) < want {
			pod, container, err := d.up(ctx, idle)
			if err != nil {
				return nil, fmt.Errorf("holding %d pods: %w", want, err)
			}
			held = append(held, pair{pod, container})
		}
		if err := pause(ctx, 3*time.Second); err != nil { // let garbage collectors and start-up helpers settle
			return nil, err
		}
		m, err := measure(d.Processes)
		if err != nil {
			return nil, err
		}
		m.Pods = want
		out = append(out, m)
	}
	for _, p := range held {
		if err := d.down(ctx, idle, p.pod, p.container); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

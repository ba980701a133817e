package main

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/cmd/troupe-sim/load"
	"github.com/troupe-run/troupe/e2e/harness"
	"github.com/troupe-run/troupe/e2e/verdict"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// comeback is how soon a daemon is back that was killed, in milliseconds since
// it was started again.
type comeback struct {
	Answers float64 `json:"answersMs"` // Status is answered
	Lists   float64 `json:"listsMs"`   // all running containers are listed
	Execs   float64 `json:"execsMs"`   // an ExecSync in one of them has ended
}

// restart is `make bench-restart`.
func restart(ctx context.Context, o options) error {
	o.present, o.lives, o.lists, o.callers, o.idle = numbers{o.pods}, 0, 0, 8, 0
	const times = 5
	back := map[string][]comeback{}
	busy := 0.0
	err := o.each(ctx, func(ctx context.Context, s *stage, c contender) error {
		l, err := o.begin(ctx, s, c)
		if err != nil {
			return err
		}
		l.After = func(ctx context.Context, level load.Level) error {
			busy = max(busy, level.Busy)
			for range times {
				b, err := s.restarted(ctx, l.Socket, o.pods)
				if err != nil {
					return err
				}
				fmt.Printf("%-10s with %d pods: answers after %4.0f ms, lists all after %4.0f ms, an exec has ended after %4.0f ms\n", c.name, o.pods, b.Answers, b.Lists, b.Execs)
				back[c.name] = append(back[c.name], b)
			}
			return nil
		}
		_, err = load.Run(ctx, l)
		return err
	})
	if err != nil || o.only != "" {
		return err
	}
	of := func(name string, figure func(comeback) float64) float64 { return medianOf(back[name], figure) }
	answers := func(b comeback) float64 { return b.Answers }
	lists := func(b comeback) float64 { return b.Lists }
	execs := func(b comeback) float64 { return b.Execs }
	p := &page{
		options: o, name: "RESTART", kind: "bench-restart", title: "A daemon that was killed comes back", raw: back, busy: busy,
		about: fmt.Sprintf("With %d running pods the daemon gets SIGKILL and is started again, %d times; medians. Troupe's monitor and containerd's\n"+
			"shims live on. Milliseconds since its start until Status is answered, until a list has all running containers, until\n"+
			"an ExecSync in one of them has ended.\n", o.pods, times),
	}
	return p.publish(verdict.Table(containerd, []verdict.Target{
		verdict.NoMore("ms until the socket answers", 1000, of(troupe, answers)),
		verdict.NoMore("ms until all running containers are listed", 1000, of(troupe, lists)),
		verdict.AtMost("ms until the socket answers, to containerd's", 1, of(troupe, answers), of(containerd, answers)),
		verdict.AtMost("ms until all are listed, to containerd's", 1, of(troupe, lists), of(containerd, lists)),
		verdict.AtMost("ms until an exec has ended, to containerd's", 1, of(troupe, execs), of(containerd, execs)),
	}))
}

// restarted kills the daemon and starts it again.
func (s *stage) restarted(ctx context.Context, socket string, pods int) (b comeback, err error) {
	cri, err := harness.Dial(socket)
	if err != nil {
		return b, err
	}
	defer cri.Close()
	running := &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{State: &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING}}}
	kill, start := s.daemonOf()
	if err := kill(); err != nil {
		return b, err
	}
	began := time.Now()
	since := func() float64 { return float64(time.Since(began)) / float64(time.Millisecond) }
	if err := start(ctx); err != nil {
		return b, err
	}
	b.Answers = since()
	var list *runtime.ListContainersResponse
	for {
		if list, err = cri.Runtime.ListContainers(ctx, running); err != nil {
			return b, err
		}
		if len(list.Containers) >= pods {
			break
		}
		if time.Since(began) > time.Minute {
			return b, fmt.Errorf("a minute after its start %d of %d containers are listed as running", len(list.Containers), pods)
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Lists = since()
	r, err := cri.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: list.Containers[pods/2].Id, Cmd: []string{"true"}, Timeout: 30})
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("true ended with %d", r.ExitCode)
	}
	b.Execs = since()
	return b, err
}

func (s *stage) daemonOf() (kill func() error, start func(context.Context) error) {
	if s.daemon != nil {
		return s.daemon.Kill, s.daemon.Start
	}
	return s.peer.Kill, s.peer.Start
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Commands of containers. One that does not listen to SIGTERM is killed after
// its grace, so that there is always one being stopped.
const (
	forever  = "echo started; exec sleep 100000"
	stubborn = "trap '' TERM; echo started; while :; do sleep 1; done"
)

// work has pods come and go until the end is due.
func (a *agent) work(ctx context.Context) error {
	a.due = make(chan bool)
	if a.plan.Answers == 0 {
		close(a.due)
	}
	failed := make(chan error, len(atWork)+1)
	for _, n := range atWork {
		go func() { failed <- a.comeAndGo(ctx, n) }()
	}
	go func() { failed <- a.pullAndRemove(ctx) }()
	select {
	case err := <-failed:
		return err
	case <-a.due:
	case <-time.After(3 * time.Minute): // all stay as they are
	}
	time.Sleep(a.plan.After)
	a.ending.Store(true)
	a.tell(Event{Kind: "cut"})
	switch a.plan.End {
	case Reset:
		return os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	case Reboot:
		return exec.CommandContext(ctx, "systemctl", "reboot").Run()
	}
	return nil // the host has cut it already
}

// comeAndGo takes one name through the states of pods and containers, again
// and again.
func (a *agent) comeAndGo(ctx context.Context, n int) error {
	random := rand.New(rand.NewPCG(a.plan.Seed, uint64(100+n)))
	dwell := func() { time.Sleep(time.Duration(random.IntN(2500)) * time.Millisecond) }
	dwell()
	for a.plan.Attempts[name(n)]++; ; a.plan.Attempts[name(n)]++ { // one was fill's
		p := a.newPod(kind(n), n)
		if _, err := p.run(ctx); err != nil {
			return err
		}
		command := forever
		if random.IntN(2) == 0 {
			command = stubborn
		}
		main, err := p.start(ctx, "main", command, 0, false)
		if err != nil {
			return err
		}
		code := int32(1 + random.IntN(100))
		ends, err := p.start(ctx, "ends", fmt.Sprintf("sleep %d; exit %d", random.IntN(2), code), code, false)
		if err != nil {
			return err
		}
		if _, err := p.start(ctx, "idle", forever, 0, true); err != nil {
			return err
		}
		if err := p.seeEnd(ctx, "ends", ends); err != nil {
			return err
		}
		dwell()
		switch random.IntN(3) {
		case 0:
			err = p.stopContainer(ctx, "main", main)
		case 1:
			err = p.removeContainer(ctx, "ends", ends)
		}
		if err != nil {
			return err
		}
		dwell()
		if random.IntN(5) < 2 {
			select {} // it stays as it is
		}
		if err := p.stop(ctx); err != nil {
			return err
		}
		dwell()
		if random.IntN(3) > 0 {
			if err := p.remove(ctx); err != nil {
				return err
			}
		}
	}
}

func (a *agent) pullAndRemove(ctx context.Context) error {
	for {
		if err := a.pull(ctx, a.plan.Other); err != nil {
			return err
		}
		time.Sleep(time.Second)
		a.tell(Event{Kind: "do", Op: "unpull", Text: a.plan.Other})
		if _, err := a.cri.Image.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: a.plan.Other}}); err != nil {
			return fmt.Errorf("RemoveImage: %w", err)
		}
		a.tell(Event{Kind: "did", Op: "unpull", Text: a.plan.Other})
	}
}

func (a *agent) pull(ctx context.Context, ref string) error {
	a.tell(Event{Kind: "do", Op: "pull", Text: ref})
	if _, err := a.cri.Image.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}}); err != nil {
		return fmt.Errorf("PullImage %s: %w", ref, err)
	}
	a.tell(Event{Kind: "did", Op: "pull", Text: ref})
	return nil
}

func contains(all []string, one string) bool { return slices.Contains(all, one) }

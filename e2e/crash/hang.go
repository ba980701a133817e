package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// hangTime is how long whoever came by the point hangs, at least: the test
	// ends the hang when it has seen all it wants to see meanwhile.
	hangTime = 1500 * time.Millisecond
	// soon is what others may be kept waiting meanwhile. It is long because the
	// machine may be busy; the hang lasts longer in any case.
	soon = 5 * time.Second
	// stopLimit is the deadline a client gives a stop of the pod that hangs.
	stopLimit = 500 * time.Millisecond
)

// accident waits for the point to be reached and does what the mode wants then.
// It returns what was wrong, when the point was reached or ctx has ended.
func (s *story) accident(ctx context.Context) error {
	for !s.n.fired() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
	if s.leading.Load() {
		if err := s.n.disarm(); err != nil {
			return err
		}
		what := "kill"
		if s.r.Task.Mode == hangs {
			what = "hang"
		}
		if err := s.n.arms(s.r.Task.Point, what, 1); err != nil {
			return err
		}
		s.leading.Store(false)
		return s.accident(ctx)
	}
	switch s.r.Task.Mode {
	case bothDie:
		if err := s.n.killMonitor(); err != nil {
			return fmt.Errorf("killing the monitor: %w", err)
		}
	case again:
		s.reached.Store(true)
		if err := s.n.disarm(); err != nil {
			return err
		}
		return s.n.arms(s.r.Task.Then, "kill", 1)
	case hangs:
		return s.whileItHangs()
	}
	return nil
}

// whileItHangs: other pods notice nothing, and to stop the pod whose step hangs
// is answered by its deadline. Then the hang ends.
func (s *story) whileItHangs() (err error) {
	begun := time.Now()
	defer func() {
		time.Sleep(time.Until(begun.Add(hangTime)))
		err = errors.Join(err, os.Remove(s.n.arm+".fired"))
	}()
	s.reached.Store(true)
	if s.r.Task.Restart || s.r.Task.First != "" {
		return nil // in a start: daemon and monitor are not connected yet
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		_, err := s.n.cri.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
		if err == nil {
			err = s.n.other.exec(ctx, s.n.cri)
		}
		for status.Code(err) == codes.Unavailable && ctx.Err() == nil { // a monitor that hung on its way out
			time.Sleep(50 * time.Millisecond)
			err = s.n.other.exec(ctx, s.n.cri)
		}
		cancel()
		if err != nil {
			return fmt.Errorf("while it hangs: %w", err)
		}
	}
	return s.stopsByItsDeadline()
}

func (s *story) stopsByItsDeadline() error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	pods, err := s.n.cri.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{LabelSelector: s.labels()}})
	cancel()
	if err != nil {
		return fmt.Errorf("while it hangs: %w", err)
	}
	for _, p := range pods.Items {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
		_, err := s.n.cri.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.Id})
		cancel()
		if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded {
			return fmt.Errorf("while it hangs, to stop its pod gives: %w", err)
		}
		if took := time.Since(began); took > soon {
			return fmt.Errorf("while it hangs, to stop its pod with a deadline of %v took %v", stopLimit, took.Round(time.Millisecond))
		}
	}
	return nil
}

package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// A checkpoint, of a pod or of one container, is its pod's to make, one at a
// time: who resumes a container must know that nobody else needs it paused.
//
//	begin     the place is looked at, directories are made
//	pause     all its containers, or none
//	capture   each, while all are paused; then what they wrote to their roots
//	resume    whatever happened; and after a failure everything is removed
//
// The last line is a job of its own, with time of its own: the first may have
// ended because the caller's was over. Should the daemon die in between, the
// monitor resumes what was paused for it; should the daemon hang, it does so
// when the caller's deadline has passed. The next daemon removes what was
// written.
type capture struct {
	caller waiters
	until  time.Time
	what   string // for errors
	ids    []string
	req    backends.CheckpointRequest
}

const (
	stepCapture = "checkpoint"
	stepResume  = "resume after checkpoint"
	// captureLimit is for callers without a deadline.
	captureLimit = 4 * time.Minute
)

func (s *sandbox) onCheckpoint(sender *actor.PID, m messages.CheckpointPod) {
	s.enqueue(sender, &capture{
		until: m.Until(), what: s.noun(), ids: m.Containers,
		req: backends.CheckpointRequest{Pod: s.id, Dir: m.Dir, PodConfig: s.plan.Config, Handler: s.plan.Handler},
	})
}

func (s *sandbox) onCheckpointContainer(sender *actor.PID, m messages.CheckpointContainer) {
	s.enqueue(sender, &capture{
		until: m.Until(), what: "container " + m.Container, ids: []string{m.Container},
		req: backends.CheckpointRequest{Pod: s.id, Archive: m.Location, PodConfig: s.plan.Config, Handler: s.plan.Handler},
	})
}

func (s *sandbox) enqueue(sender *actor.PID, c *capture) {
	c.caller.join(sender)
	s.captures = append(s.captures, c)
	if len(s.captures) == 1 {
		s.nextCapture()
	}
}

// nextCapture begins the first in the queue.
func (s *sandbox) nextCapture() {
	for len(s.captures) > 0 {
		c := s.captures[0]
		err := s.choose(c)
		if err == nil {
			s.capture(c)
			return
		}
		s.captured(c, err)
	}
}

// captured answers the first in the queue and takes it out.
func (s *sandbox) captured(c *capture, err error) {
	if err != nil {
		err = fmt.Errorf("checkpoint of %s: %w", c.what, err)
	}
	s.captures = slices.Clone(s.captures[1:])
	c.caller.answer(s.env, messages.None{}, err)
}

// choose fills in what is known of the containers; they must run, and for a
// pod they must be all that do (cri-api, CheckpointPodRequest).
func (s *sandbox) choose(c *capture) error {
	if s.state != messages.PodReady {
		return messages.Errorf(messages.Precondition, "the pod is %s, not ready", s.state)
	}
	c.req.Containers = nil
	for _, id := range c.ids {
		snap, known := s.env.Index.container(id)
		switch {
		case !known || snap.Pod != s.id:
			return messages.Errorf(messages.NotFound, "container %s is not in pod %s", id, s.id)
		case snap.State != messages.ContainerRunning:
			return messages.Errorf(messages.Precondition, "container %s is %s, not running", id, snap.State)
		}
		one := backends.CheckpointedContainer{ID: id, Config: snap.Config, CreatedAt: snap.CreatedAt, StartedAt: snap.StartedAt}
		one.Image, _ = s.env.Index.Image(snap.ImageID)
		one.Image.ID = snap.ImageID
		c.req.Containers = append(c.req.Containers, one)
	}
	if c.req.Dir == "" {
		return nil
	}
	for _, id := range s.childIDs() {
		if snap, known := s.env.Index.container(id); known && snap.State == messages.ContainerRunning && !slices.Contains(c.ids, id) {
			return messages.Errorf(messages.Precondition, "container %s of the pod is running as well: a checkpoint of a pod is of all that run", id)
		}
	}
	return nil
}

// capture goes by a key of its own: a stop of the pod must not wait for it. The
// stop kills what is captured, and with that the capture fails.
func (s *sandbox) capture(c *capture) {
	env, r, ids := s.env, c.req, c.ids
	limit := env.timeLeft(c.until, captureLimit)
	s.do(Job{Key: s.id + "/checkpoint", Lane: LaneProbe, Name: stepCapture, Limit: limit}, func(ctx context.Context) (any, error) {
		dirs, err := env.Node.Checkpoints.Begin(ctx, r)
		if err != nil {
			return nil, err
		}
		if err := env.Node.Runtime.Freeze(ctx, r.Pod, ids, limit+env.Settings.UndoLimit); err != nil {
			return nil, err
		}
		for i, id := range ids {
			if err := env.Node.Runtime.Dump(ctx, r.Pod, id, dirs[i]); err != nil {
				return nil, err
			}
		}
		return nil, env.Node.Checkpoints.Finish(ctx, r)
	}, func(d done) {
		s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
		s.resumeAfter(c, d.err)
	})
}

func (s *sandbox) resumeAfter(c *capture, failed error) {
	env, r, ids := s.env, c.req, c.ids
	s.do(Job{Key: s.id + "/checkpoint", Lane: LaneStop, Name: stepResume, Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		err := env.Node.Runtime.Thaw(ctx, r.Pod, ids)
		if failed != nil {
			err = errors.Join(err, env.Node.Checkpoints.Discard(ctx, r))
		}
		return nil, err
	}, func(d done) {
		s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
		if d.err != nil { // the monitor resumes them at the latest when the time is over
			s.env.Log.Error("after a checkpoint not everything could be put back", "pod", s.id, "err", d.err)
			failed = errors.Join(failed, fmt.Errorf("put back: %w", d.err))
		}
		s.captured(c, failed)
		s.nextCapture()
	})
}

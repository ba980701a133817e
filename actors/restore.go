package actors

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// A pod is restored by the steps of RunPodSandbox and CreateContainer. Its
// record says "starting" until the last container is created, so that whatever
// cuts the restore off (an error, the end of the caller's time, a stop, the
// daemon's death) is a start that was cut off: all of it is removed again.
//
//	check       the checkpoint against the request; nothing is made (node)
//	the steps   of a pod                                             (sandbox)
//	containers  each by its steps, one of which unpacks its archive  (container)
//	ready       in the record, then answered
//
// StartContainer then has CRIU restore the processes.
type restoration struct {
	configs []messages.CreateContainer
	spawn   func(id string) *actor.PID
	made    map[string]string // name → id, of the created
	stop    func()            // of the timer that ends it
}

const (
	// restoreLimit is how long one container may take to unpack and to start:
	// the memory of its processes is in the checkpoint.
	restoreLimit = 10 * time.Minute
	// goingBack is what is kept of the caller's time, at most, to remove what
	// was made: all of it is gone when an error is answered (cri-api).
	goingBack = 10 * time.Second
)

// restorePod is RestorePod once the checkpoint was found to fit.
type restorePod struct{ messages.RestorePod }

// restored tells a pod that one of its containers is created, or why not.
type restored struct {
	id  string
	err error
}

// restore has the checkpoint looked at before anything is made.
func (n *node) restore(ctx actor.Context, sender *actor.PID, m messages.RestorePod) {
	caller := waiters{}
	caller.join(sender)
	n.restoring = append(n.restoring, &caller)
	r := backends.RestoreRequest{Dir: m.Dir, Handler: m.Handler, Config: m.Config, Containers: m.Containers}
	env := n.env
	n.do(Job{Key: "restore", Lane: LaneRead, Name: "check checkpoint", Limit: untilOf(env, m.Until())}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Checkpoints.Check(ctx, r)
	}, func(d done) {
		n.restoring = slices.DeleteFunc(n.restoring, func(w *waiters) bool { return w == &caller })
		name, err := nameOf(m.Config), d.err
		if id, taken := n.names[name]; err == nil && taken {
			err = messages.Errorf(messages.Exists, "there is a pod of that name, uid and attempt already: %s: remove it or raise the attempt", id)
		}
		if err != nil {
			caller.answer(env, nil, fmt.Errorf("restore pod %s: %w", podName(m.Config), err))
			return
		}
		id := env.NewID()
		n.names[name] = id
		n.pods[id] = n.spawn(ctx, "sandbox-"+id, newSandbox(env, id))
		env.System.Root.RequestWithCustomSender(n.pods[id], restorePod{m}, sender)
	})
}

// onRestore begins with the pod itself.
func (s *sandbox) onRestore(ctx actor.Context, m messages.RestorePod) {
	if s.state != "" {
		s.refuse(ctx.Sender())
		return
	}
	r := &restoration{made: map[string]string{}, stop: func() {}, spawn: func(id string) *actor.PID { return s.spawnChild(ctx, id) }}
	for _, c := range m.Containers {
		r.configs = append(r.configs, messages.CreateContainer{Call: m.Call, Pod: s.id, Config: c})
	}
	s.restoring = r
	if until := m.Until(); !until.IsZero() {
		left := until.Sub(s.env.Clock.Now())
		r.stop = s.after(max(left-min(goingBack, left/4), 0), func() {
			s.end(messages.Errorf(messages.Deadline, "restore pod %s: the caller's time is over", podName(m.Config)))
		})
	}
	s.running.join(ctx.Sender())
	s.begin(podPlan{Boot: s.env.Boot, Config: m.Config, Handler: m.Handler, ShmSize: m.ShmSize, Restore: m.Dir})
}

// restoreContainers has them created, side by side.
func (s *sandbox) restoreContainers() {
	for _, c := range s.restoring.configs {
		id := s.env.NewID()
		s.names[containerName(c.Config)] = id
		s.env.send(s.restoring.spawn(id), createFirst{req: c, pod: s.plan, restore: s.plan.Restore})
	}
}

// tellRestorer says to the pod that restores it how far a container is.
func (c *container) tellRestorer() {
	if c.plan.Restore != "" {
		c.env.send(c.parent(), restored{id: c.id, err: c.first})
	}
}

// onRestored counts them; when all are there, the record says so.
func (s *sandbox) onRestored(m restored) {
	if s.restoring == nil || s.state != messages.PodStarting || s.first != nil {
		return
	}
	if m.err != nil {
		s.end(fmt.Errorf("restore %s: %w", s.noun(), m.err))
		return
	}
	if snap, ok := s.env.Index.container(m.id); ok {
		s.restoring.made[snap.Config.GetMetadata().GetName()] = m.id
	}
	if len(s.restoring.made) < len(s.restoring.configs) {
		return
	}
	rec := s.recordNow()
	rec.State, rec.Plan.Restore = messages.PodReady, ""
	env, place, data := s.env, s.place, encode(rec)
	s.do(Job{Lane: LaneStart, Name: "restored", Limit: env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Journal.Save(ctx, place, data)
	}, func(d done) {
		s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
		if d.err != nil {
			s.end(fmt.Errorf("restore %s: %w", s.noun(), d.err))
		}
		if s.restoring == nil || s.state != messages.PodStarting {
			return // it was ended meanwhile
		}
		answer := messages.RestoredPod{Pod: s.id, Containers: s.restoring.made}
		s.restoring.stop()
		s.restoring, s.plan.Restore = nil, ""
		s.become(messages.PodReady, "")
		s.running.answer(s.env, answer, nil)
		s.pauseExited()
	})
}

// lostChild: a container that is no more cannot be answered for.
func (s *sandbox) lostChild(id string, err error) {
	if s.restoring == nil || s.state != messages.PodStarting {
		return
	}
	if err == nil {
		err = messages.Errorf(messages.Canceled, "container %s was removed while the pod was restored", id)
	}
	s.end(fmt.Errorf("restore %s: %w", s.noun(), err))
}

// end cuts a start off. A restored pod that has come to its containers removes
// them first; those who wait are answered when all is gone.
func (s *sandbox) end(err error) {
	if s.restoring == nil || s.travelling() || s.first != nil {
		s.abort(err)
		return
	}
	s.restoring.stop()
	s.restoring, s.first = nil, err
	s.become(messages.PodRemoving, err.Error())
	s.journal()
	s.goOn()
}

// --- the container's part ---

func beginsAnew(p *containerPlan) bool { return p.Restore == "" }

func unpackCheckpoint(ctx context.Context, n *backends.Node, p *containerPlan) (err error) {
	p.Images, err = n.Checkpoints.Unpack(ctx, backends.UnpackRequest{
		Dir: p.Restore, Name: p.Config.GetMetadata().GetName(), Pod: p.Pod, Container: p.ID, Rootfs: p.Rootfs,
	})
	return err
}

func forgetCheckpoint(ctx context.Context, n *backends.Node, p *containerPlan) error {
	return n.Checkpoints.Forget(ctx, p.Pod, p.ID)
}

// dropImages gives back what held the memory of processes that live now. What
// fails stays until the container is removed.
func (c *container) dropImages() {
	if c.plan.Images == "" {
		return
	}
	env, pod, id := c.env, c.pod, c.id
	c.do(Job{Lane: LaneStop, Name: "drop checkpoint", Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Checkpoints.Forget(ctx, pod, id)
	}, func(d done) {
		if d.err != nil {
			c.env.Log.Warn("the checkpoint of a restored container takes its space until the container is removed", "container", id, "err", d.err)
		}
	})
}

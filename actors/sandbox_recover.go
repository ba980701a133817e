package actors

import (
	"context"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// found is what a pod's records and the node say about it.
type found struct {
	adopt
	pinned bool
	pause  messages.ProcessState
}

// recover is the one path back to life: after the daemon's death, after a
// panic of this actor, after a reboot. It reads what the journal says, looks
// at the node, and goes on from there.
func (s *sandbox) recover(ctx actor.Context, m adopt) {
	s.recovering = true
	spawn := func(id string) *actor.PID { return s.spawnChild(ctx, id) }
	s.do(Job{Lane: LaneRead, Name: "recover", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return s.look(ctx, m)
	}, func(d done) {
		if d.err != nil {
			s.env.Log.Error("a pod could not be recovered and will be tried again", "pod", s.id, "err", d.err)
			f, _ := d.value.(found)
			s.again(func() { s.recover(ctx, adopt{damaged: m.damaged || f.damaged}) })
			return
		}
		s.tries = 0
		s.resume(d.value.(found), spawn)
		s.recovering = false
		for _, p := range s.postponed {
			s.env.System.Root.RequestWithCustomSender(s.self, p.m, p.sender())
		}
		s.postponed = nil
	})
}

func (s *sandbox) look(ctx context.Context, m adopt) (found, error) {
	n := s.env.Node
	if m.records == nil {
		all, damaged, err := n.Journal.LoadPod(ctx, s.id)
		m.damaged = m.damaged || len(damaged) > 0
		if err != nil {
			return found{adopt: m}, err
		}
		m.records = readRecords(all)
	}
	f := found{adopt: m}
	if err := s.noteStrays(ctx, f); err != nil {
		return f, err
	}
	var err error // resume says so when the pod's record cannot be used
	if f.pinned, err = n.Namespaces.Pinned(ctx, s.id, f.records.pod.Plan.Namespaces); err != nil {
		return f, err
	}
	f.pause, err = n.Runtime.State(ctx, s.id, s.id)
	return f, err
}

// noteStrays writes down that a container of the pod may have lost its record,
// before the pod goes on: the damage is reported only once, and the daemon may
// end before the pod does.
func (s *sandbox) noteStrays(ctx context.Context, f found) error {
	if !f.damaged {
		return nil
	}
	rec := f.records.pod
	if f.records.err != nil || slices.Contains(rec.Done, "strays") {
		return nil
	}
	rec.Done = append(slices.Clone(rec.Done), "strays")
	return s.env.Node.Journal.Save(ctx, s.place, encode(rec))
}

// resume takes the pod up where the record left it.
func (s *sandbox) resume(f found, spawn func(string) *actor.PID) {
	rec := f.records.pod
	if err := f.records.err; err != nil {
		// Nothing here knows what the pod holds. Its leftovers carry its id:
		// the sweeper removes them.
		s.env.Log.Error("a pod's record cannot be used; what it holds is left to the sweeper", "pod", s.id, "err", err)
		s.gone()
		return
	}
	s.conf, s.plan, s.walk.Done = rec.Config, rec.Plan, slices.Clip(rec.Done)
	for _, r := range f.records.containers {
		if !s.adoptChild(r, spawn) {
			f.damaged = true
		}
	}
	s.plan.Children = s.childIDs()
	for _, id := range s.env.Index.containerIDs(s.id) { // shown by an earlier instance
		if s.children[id] == nil {
			s.env.send(spawn(id), noRecord{s.plan})
		}
	}
	if f.damaged && !slices.Contains(s.walk.Done, "strays") {
		s.walk.Done = append(s.walk.Done, "strays") // noteStrays has journalled it
	}
	switch rec.State {
	case messages.PodStarting: // its caller is gone; a retry starts afresh
		s.first = messages.Errorf(messages.Unavailable, "the daemon ended while pod %s was starting", podName(s.plan.Config))
		s.become(messages.PodStarting, "")
		if len(s.children) > 0 { // a restore was cut off: they go first
			s.become(messages.PodRemoving, s.first.Error())
			s.goOn()
			return
		}
		s.unwind(onRemove, true)
	case messages.PodReady:
		s.become(messages.PodReady, "")
		if s.plan.past(s.env) {
			s.endPast()
			return
		}
		if reason := s.lost(f); reason != "" {
			s.become(messages.PodNotReady, reason)
			s.journal()
		}
	case messages.PodStopping:
		s.become(messages.PodStopping, "")
		s.goOn()
	case messages.PodRemoving:
		s.become(messages.PodRemoving, "")
		s.goOn()
	default:
		s.become(messages.PodNotReady, rec.Reason)
		if s.plan.past(s.env) && slices.Contains(s.walk.Done, "network") {
			s.endPast()
		}
	}
}

const nodeRestarted = "the node was restarted"

// endPast stops a pod that a restart of the node has ended, as the kubelet will:
// its address is given back now, with any network plugin, and its containers are
// shown as they were, exited at an unknown time if they were running.
func (s *sandbox) endPast() {
	s.become(messages.PodStopping, nodeRestarted)
	s.journal()
	s.goOn()
}

// lost says what a pod that was ready has lost, by a reboot for instance.
func (s *sandbox) lost(f found) string {
	if !f.pinned {
		return "the pod's namespaces are gone"
	}
	if !hasNoPause(&s.plan) && (s.pauseGone || f.pause.Status != messages.ProcessRunning) {
		return lostPause
	}
	return ""
}

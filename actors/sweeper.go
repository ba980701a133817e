package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// sweeper finds what the node holds under our names and no actor owns, and
// removes it once it has had no owner for a while. It is what a lost record
// leaves behind; nothing else should.
type sweeper struct {
	crew
	since   map[backends.Held]time.Time // how long something has had no owner
	failed  map[backends.Held]string    // why it could not be dropped
	state   string
	callers waiters // they are told what this look finds
	later   waiters // they came while one was under way: told by the next
}

func newSweeper(env *Env) actor.Producer {
	return func() actor.Actor {
		return &sweeper{crew: crew{env: env}, since: map[backends.Held]time.Time{}, failed: map[backends.Held]string{}}
	}
}

// Receive implements actor.Actor.
func (s *sweeper) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.start(s.env, ctx, "sweeper")
		s.become("idle")
		s.after(s.env.Settings.SweepEvery, s.sweep)
		s.after(s.env.Settings.SweepGrace, s.sweepImages)
	case *actor.Stopping, *actor.Restarting:
		s.handled(m)
		settle(s.env, s.self, s)
	case *actor.Stopped:
		s.env.Index.dropActor(ctx.Self().Id)
	case messages.FindLeftovers:
		s.later.join(ctx.Sender())
		if s.state == "idle" {
			s.look(nil)
		}
	case messages.Abandon:
		caller := actor.NewPID(s.self.Address, m.Caller)
		s.callers.leave(caller)
		s.later.leave(caller)
	default:
		if !s.handled(m) {
			unexpected(s.env, ctx, s.state)
		}
	}
}

func (s *sweeper) debts() []*waiters { return []*waiters{&s.callers, &s.later} }

func (s *sweeper) become(state string) {
	s.state = state
	s.env.Index.putActor(messages.ActorInfo{Path: s.self.Id, Kind: "sweeper", State: state, Since: s.env.Clock.Now()})
}

// sweep is the regular look, with the removal of what is due.
func (s *sweeper) sweep() {
	s.after(s.env.Settings.SweepEvery, s.sweep)
	if s.state == "idle" {
		s.look(s.drop)
	}
}

// look asks every backend what it holds. What then does with what is due; nil:
// nothing.
func (s *sweeper) look(then func([]backends.Held)) {
	s.callers, s.later = s.later, nil
	s.become("looking")
	s.do(Job{Lane: LaneRead, Name: "look", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		var all []backends.Held
		for _, h := range s.env.Node.Holders() {
			held, err := h.Held(ctx)
			if err != nil {
				return nil, err
			}
			all = append(all, held...)
		}
		return all, nil
	}, func(d done) {
		s.become("idle")
		due := s.looked(d)
		if len(due) > 0 && then != nil {
			then(due)
		} else if len(s.later) > 0 {
			s.look(nil)
		}
	})
}

// looked notes what has no owner, tells those who asked, and gives what has had
// none for the whole grace. An owner that came since the look is seen here,
// because actors publish before they take.
func (s *sweeper) looked(d done) (due []backends.Held) {
	if d.err != nil {
		s.env.Log.Warn("the node could not be looked through for leftovers", "err", d.err)
		s.callers.answer(s.env, nil, fmt.Errorf("look through the node for leftovers: %w", d.err))
		return nil
	}
	now, seen := s.env.Clock.Now(), map[backends.Held]time.Time{}
	for _, h := range d.value.([]backends.Held) {
		if _, twice := seen[h]; twice || s.env.Index.owns(h) {
			continue
		}
		first, known := s.since[h]
		if !known {
			first = now
			s.env.Log.Warn("found something without an owner; it is removed after the grace", "kind", h.Kind, "pod", h.Pod, "container", h.Container, "name", h.Name, "grace", s.env.Settings.SweepGrace)
		}
		seen[h] = first
		if now.Sub(first) >= s.env.Settings.SweepGrace {
			due = append(due, h)
		}
	}
	s.since = seen
	for h := range s.failed {
		if _, still := seen[h]; !still {
			delete(s.failed, h)
		}
	}
	s.callers.answer(s.env, s.leftovers(), nil)
	return due
}

// leftovers are what has no owner, the longest known first.
func (s *sweeper) leftovers() []messages.Leftover {
	all := make([]messages.Leftover, 0, len(s.since))
	for h, since := range s.since {
		all = append(all, messages.Leftover{
			Kind: h.Kind, Name: h.Name, Pod: h.Pod, Container: h.Container,
			Since: since, Due: since.Add(s.env.Settings.SweepGrace), Action: fate(h.Kind), Err: s.failed[h],
		})
	}
	slices.SortFunc(all, func(a, b messages.Leftover) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// fate is what dropping does with something, for people.
func fate(kind string) string {
	switch {
	case kind == backends.HeldProcess:
		return "kill it and remove its cgroup"
	case kind == "mount":
		return "unmount it"
	case kind == "network":
		return "detach the pod (CNI DEL)"
	case strings.HasSuffix(kind, "ns"):
		return "unpin it"
	}
	return "remove it"
}

// imagesEvery is how often the image store is swept: what it keeps, it keeps for hours.
const imagesEvery = time.Hour

// sweepImages tells the image store which images have been in use, and since
// when: a damaged layer is kept for who may have it mounted. Of what has a root
// or a volume and no owner nobody knows the image: that goes first.
func (s *sweeper) sweepImages() {
	users, root, volumes := s.env.Index.imageUsers(), s.env.Node.Rootfs, s.env.Node.Volumes
	s.do(Job{Lane: LaneRead, Name: "sweep images", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		for _, holder := range []backends.Holder{root, volumes} {
			held, err := holder.Held(ctx)
			if err != nil {
				return nil, err
			}
			for _, h := range held {
				if !s.env.Index.owns(h) {
					return nil, messages.Errorf(messages.Busy, "%s %s has no owner: its image is not known until it is swept", h.Kind, h.Name)
				}
			}
		}
		return nil, s.env.Node.Images.Sweep(ctx, users)
	}, func(d done) {
		if messages.KindOf(d.err) == messages.Busy {
			s.after(s.env.Settings.SweepEvery, s.sweepImages)
			return
		}
		s.after(imagesEvery, s.sweepImages)
		if d.err != nil {
			s.env.Log.Warn("the image store could not be swept and is tried again", "in", imagesEvery, "err", d.err)
		}
	})
}

// drop removes in the order of the holders: processes first, records last.
func (s *sweeper) drop(due []backends.Held) {
	s.become(fmt.Sprintf("removing %d", len(due)))
	s.do(Job{Lane: LaneStop, Name: "drop", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		t := trash{due: due, failed: map[backends.Held]string{}, stuck: map[string]bool{}}
		// Two backends know of processes, and one that runs keeps all else busy.
		err := t.empty(ctx, s.env.Node.Holders(), true)
		if err == nil {
			err = t.empty(ctx, s.env.Node.Holders(), false)
		}
		return t.failed, errors.Join(append(t.errs, err)...)
	}, func(d done) {
		s.become("idle")
		if failed, ok := d.value.(map[backends.Held]string); ok {
			s.failed = failed
		}
		if d.err != nil {
			s.env.Log.Warn("not all leftovers could be removed; they are tried again", "err", d.err)
		}
		if len(s.later) > 0 {
			s.look(nil)
		}
	})
}

// trash is what a pass of the sweeper removes.
type trash struct {
	due    []backends.Held
	failed map[backends.Held]string
	stuck  map[string]bool // pods that keep something: what is beneath it stays
	errs   []error
}

// empty drops what is due and still there: the processes, or all else. Its
// error says that a backend could not tell what it holds.
func (t *trash) empty(ctx context.Context, holders []backends.Holder, processes bool) error {
	for _, h := range holders {
		held, err := h.Held(ctx)
		if err != nil {
			return err
		}
		for _, one := range held {
			if (one.Kind == backends.HeldProcess) != processes || t.stuck[one.Pod] || !slices.Contains(t.due, one) {
				continue
			}
			if err := h.Drop(ctx, one); err != nil {
				t.stuck[one.Pod] = true
				t.failed[one] = err.Error()
				t.errs = append(t.errs, fmt.Errorf("drop %s %s of pod %s: %w", one.Kind, one.Name, one.Pod, err))
			}
		}
	}
	return nil
}

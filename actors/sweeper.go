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

// sweeper finds what the node holds under our names and no actor owns, and
// removes it once it has had no owner for a while. It is what a lost record
// leaves behind; nothing else should.
type sweeper struct {
	crew
	since map[backends.Held]time.Time // how long something has had no owner
}

func newSweeper(env *Env) actor.Producer {
	return func() actor.Actor { return &sweeper{crew: crew{env: env}, since: map[backends.Held]time.Time{}} }
}

// Receive implements actor.Actor.
func (s *sweeper) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.start(s.env, ctx, "sweeper")
		s.show("idle")
		s.after(s.env.Settings.SweepEvery, s.sweep)
		s.after(s.env.Settings.SweepGrace, s.sweepImages)
	case *actor.Stopped:
		s.env.Index.dropActor(ctx.Self().Id)
	default:
		if !s.handled(m) {
			unexpected(s.env, ctx, "")
		}
	}
}

func (s *sweeper) show(state string) {
	s.env.Index.putActor(messages.ActorInfo{Path: s.self.Id, Kind: "sweeper", State: state, Since: s.env.Clock.Now()})
}

func (s *sweeper) sweep() {
	s.show("looking")
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
	}, s.looked)
}

// looked drops what has had no owner for the whole grace. An owner that came
// since the look is seen here, because actors publish before they take.
func (s *sweeper) looked(d done) {
	s.after(s.env.Settings.SweepEvery, s.sweep)
	s.show("idle")
	if d.err != nil {
		s.env.Log.Warn("the node could not be looked through for leftovers", "err", d.err)
		return
	}
	now, seen, due := s.env.Clock.Now(), map[backends.Held]time.Time{}, []backends.Held(nil)
	for _, h := range d.value.([]backends.Held) {
		if s.owned(h) {
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
	if len(due) > 0 {
		s.drop(due)
	}
}

// imagesEvery is how often the image store is swept: what it keeps, it keeps for hours.
const imagesEvery = time.Hour

// sweepImages tells the image store which images have been in use, and since
// when: a damaged layer is kept for who may have it mounted.
func (s *sweeper) sweepImages() {
	users := s.env.Index.imageUsers()
	s.do(Job{Lane: LaneRead, Name: "sweep images", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, s.env.Node.Images.Sweep(ctx, users)
	}, func(d done) {
		s.after(imagesEvery, s.sweepImages)
		if d.err != nil {
			s.env.Log.Warn("the image store could not be swept and is tried again", "in", imagesEvery, "err", d.err)
		}
	})
}

func (s *sweeper) owned(h backends.Held) bool {
	if _, ok := s.env.Index.pod(h.Pod); !ok {
		return false
	}
	if h.Container == "" || h.Container == h.Pod {
		return true
	}
	_, ok := s.env.Index.container(h.Container)
	return ok
}

// drop removes in the order of the holders: processes first, records last.
func (s *sweeper) drop(due []backends.Held) {
	s.show(fmt.Sprintf("removing %d", len(due)))
	s.do(Job{Lane: LaneStop, Name: "drop", Limit: s.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		var errs []error
		stuck := map[string]bool{} // pods that keep something: what is beneath it stays
		for _, h := range s.env.Node.Holders() {
			held, err := h.Held(ctx)
			if err != nil {
				return nil, errors.Join(append(errs, err)...)
			}
			for _, one := range held {
				if stuck[one.Pod] || !slices.Contains(due, one) {
					continue
				}
				if err := h.Drop(ctx, one); err != nil {
					stuck[one.Pod] = true
					errs = append(errs, fmt.Errorf("drop %s %s of pod %s: %w", one.Kind, one.Name, one.Pod, err))
				}
			}
		}
		return nil, errors.Join(errs...)
	}, func(d done) {
		s.show("idle")
		if d.err != nil {
			s.env.Log.Warn("not all leftovers could be removed; they are tried again", "err", d.err)
		}
	})
}

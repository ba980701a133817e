package actors

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// trip takes an actor along its list of steps, forth and back, one job at a
// time, and keeps the journal on the way. What a pod and a container do there
// is the same; what it means for them they say as travellers.
type trip[P any] struct {
	crew
	who   traveller[P]
	place backends.Key // of the record
	plan  P
	walk  walk[P]
	step  string // under way
	first error  // what ended the way forth
	tries int    // of the way back
	// unwritten is how often in a row the journal could not be written, rewriting
	// whether a try is to come.
	unwritten int
	rewriting bool
	past      timeline
	over      bool // nothing is left of it; it is about to be unlinked
}

// traveller is the actor as its trip sees it. All is called in the actor.
type traveller[P any] interface {
	// noun is what errors are about: "pod default/web".
	noun() string
	// attrs are what log lines are about.
	attrs() []any
	publish()
	// record gives what the journal keeps while the way forth is under way, as
	// a function for a worker: it must not look at the actor. With complete
	// the last step is done.
	record() func(plan P, done []string, complete bool) []byte
	// present is what the journal keeps now, and whether a record may be
	// written again after it failed: not when the way forth or the removal
	// would meet it.
	present() (data []byte, again bool)
	// arrived: the last step is done, and the record says so.
	arrived()
	// failed answers those who wait for the way forth with t.first.
	failed()
	// returned: the way back to a phase has ended; err is what is left.
	returned(to phase, err error)
}

// stepped is a step's outcome.
type stepped[P any] struct {
	plan     P
	done     []string
	complete bool // the record may say that the way forth is complete
	long     bool // it is not recorded yet
}

// forth does the next step and journals it in the same job: the answer to a
// request is given only when the record says what it says.
func (t *trip[P]) forth() {
	st := t.walk.next(&t.plan)
	if st == nil {
		t.who.arrived()
		return
	}
	t.step = st.name
	t.who.publish()
	env, place, plan, record := t.env, t.place, t.plan, t.who.record() // the worker's own
	ahead := walk[P]{steps: t.walk.steps, Done: append(slices.Clone(t.walk.Done), st.name)}
	t.do(Job{Lane: cmp.Or(st.lane, LaneStart), Name: st.name, Limit: limitOf(st.limit, env.Settings.StepLimit)}, func(ctx context.Context) (any, error) {
		if err := st.do(ctx, env.Node, &plan); err != nil {
			return stepped[P]{plan: plan}, err
		}
		next := ahead.next(&plan)
		for ; next != nil && next.idle != nil && next.idle(env.Node, &plan); next = ahead.next(&plan) {
			ahead.Done = append(ahead.Done, next.name)
		}
		s := stepped[P]{plan: plan, done: ahead.Done, complete: next == nil, long: st.limit > env.Settings.StepLimit}
		if s.long {
			return s, nil
		}
		return s, env.Node.Journal.Save(ctx, place, record(plan, s.done, s.complete))
	}, t.stepped)
}

// note journals a step that may take long in a job of its own: a disk that
// hangs must not keep the caller waiting for as long as the step may.
func (t *trip[P]) note(name string, s stepped[P]) {
	t.step, s.long = name, false
	env, place, data := t.env, t.place, t.who.record()(s.plan, s.done, s.complete)
	t.do(Job{Lane: LaneStart, Name: name, Limit: env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return s, env.Node.Journal.Save(ctx, place, data)
	}, t.stepped)
}

func limitOf(own, usual time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	return usual
}

func (t *trip[P]) stepped(d done) {
	t.step = ""
	t.past = t.past.took(t.env.Clock.Now(), d.name, d.took, d.err)
	s, told := d.value.(stepped[P])
	if told {
		t.plan = s.plan
	}
	if d.err == nil && s.long {
		t.note(d.name, s)
		return
	}
	if d.err == nil {
		t.walk.Done = s.done
		if t.first == nil {
			t.forth()
			return
		}
	}
	if t.first == nil {
		t.first = fmt.Errorf("%s: step %s: %w", t.who.noun(), d.name, d.err)
		t.env.Log.Warn("a step failed", append(t.who.attrs(), "step", d.name, "took", d.took, "err", d.err)...)
	}
	// On a full disk the record that says ready was not written, and cannot be
	// taken back either: what was made would stay until there is space.
	if s.complete && messages.KindOf(d.err) != messages.NoSpace {
		t.retract()
		return
	}
	t.unwind(onRemove, true)
}

// abort ends the way forth: the job under way is cancelled, and its outcome
// begins the way back.
func (t *trip[P]) abort(err error) {
	if t.first == nil {
		t.first = err
		t.cancel()
	}
}

// retract takes back a record that may say that all is done, before anything
// is undone: a crash or a panic on the way back would find a ready pod without
// its network. While that cannot be written (a full disk) nothing is undone;
// the callers are told all the same.
func (t *trip[P]) retract() {
	env, place := t.env, t.place
	data := t.who.record()(t.plan, t.walk.Done, false)
	t.do(Job{Lane: LaneStop, Name: "retract", Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Journal.Save(ctx, place, data)
	}, func(d done) {
		if d.err != nil {
			t.env.Log.Warn("a record could not be taken back and is tried again", append(t.who.attrs(), "err", d.err)...)
			t.who.failed()
			t.again(t.retract)
			return
		}
		t.tries = 0
		t.unwind(onRemove, true)
	})
}

// unwind undoes the steps of a phase, last first; half as in walk.turn.
func (t *trip[P]) unwind(to phase, half bool) {
	t.walk.turn(&t.plan, to, half)
	t.backward(to)
}

func (t *trip[P]) backward(to phase) {
	st := t.walk.undoing()
	if st == nil {
		err := t.walk.failed()
		if err == nil {
			t.tries = 0
		}
		t.who.returned(to, err)
		return
	}
	t.step = "undo " + st.name
	t.who.publish()
	env, plan := t.env, t.plan
	t.do(Job{Lane: LaneStop, Name: t.step, Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, st.undo(ctx, env.Node, &plan)
	}, func(d done) {
		t.step = ""
		t.past = t.past.took(t.env.Clock.Now(), d.name, d.took, d.err)
		if d.err != nil {
			t.env.Log.Warn("an undo failed and will be tried again", append(t.who.attrs(), "step", d.name, "try", t.tries, "err", d.err)...)
		}
		t.walk.undone(d.err)
		t.backward(to)
	})
}

// travelling says whether a job of the way back or forth is under way.
func (t *trip[P]) travelling() bool { return t.step != "" || t.walk.undoing() != nil }

// again tries something that must not be given up, later and later.
func (t *trip[P]) again(f func()) {
	t.after(backoff(t.env.Settings, t.tries), f)
	t.tries++
}

// journal writes the present state in its turn among the actor's jobs, so that
// it is on disk before the effects of any later job.
func (t *trip[P]) journal() { t.journalThen(func() {}) }

// journalThen also says when that has been tried. Who is answered only then is
// shown the same after the daemon's death; a record that cannot be written holds
// nobody up.
func (t *trip[P]) journalThen(then func()) {
	env, place := t.env, t.place
	data, _ := t.who.present()
	t.do(Job{Lane: LaneStop, Name: "journal", Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Journal.Save(ctx, place, data)
	}, func(d done) {
		then()
		if d.err == nil || t.over {
			t.unwritten = 0
			return
		}
		// The state is in memory: write it again, in one series of tries however
		// many changes could not be written.
		t.unwritten++
		t.env.Log.Warn("the journal was not written and is tried again", append(t.who.attrs(), "err", d.err)...)
		if t.rewriting {
			return
		}
		t.rewriting = true
		t.after(backoff(t.env.Settings, t.unwritten-1), func() {
			t.rewriting = false
			if _, again := t.who.present(); again && t.unwritten > 0 && !t.over && !t.travelling() {
				t.journal()
			}
		})
	})
}

package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/failpoint"
)

// phase says which request takes a step back.
type phase int

const (
	onStop   phase = iota // StopPodSandbox already does
	onRemove              // only Remove does
)

// step is one thing a pod or container takes from the node, with the way to
// give it back beside it. An undo is safe when its do never ran, ran half, or
// was undone before: a crash can fall between an effect and its journal line.
type step[P any] struct {
	name string
	do   func(context.Context, *backends.Node, *P) error
	undo func(context.Context, *backends.Node, *P) error
	on   phase
	// gate: nothing beneath is undone while this one's undo fails. (A root is
	// not unmounted under a living process.)
	gate bool
	// skip leaves the step out for a plan that does not need it.
	skip func(*P) bool
	// idle, asked when the step before is done, says that there is nothing to
	// do: then this one counts as done with that, in one line of the journal.
	idle func(*backends.Node, *P) bool
	// limit replaces Settings.StepLimit.
	limit time.Duration
	lane  Lane // of its do; empty: LaneStart
}

// withPoints puts crash points around what a list does and undoes, so that no
// step can be without them: step/<noun>/<step>/before and after, undo/<noun>/….
func withPoints[P any](noun string, steps []step[P]) []step[P] {
	if !failpoint.On {
		return steps
	}
	around := func(kind, name string, f func(context.Context, *backends.Node, *P) error) func(context.Context, *backends.Node, *P) error {
		failpoint.Declare(kind, noun, name, "before")
		failpoint.Declare(kind, noun, name, "after")
		return func(ctx context.Context, n *backends.Node, p *P) error {
			failpoint.Hit(kind, noun, name, "before")
			err := f(ctx, n, p)
			failpoint.Hit(kind, noun, name, "after")
			return err
		}
	}
	for i := range steps {
		s := &steps[i]
		s.do, s.undo = around("step", s.name, s.do), around("undo", s.name, s.undo)
	}
	return steps
}

// walk is where somebody is in a list of steps. It decides what comes next and
// does no I/O. Done holds the names of the steps that have been done and not
// been undone, in order; it is what the journal keeps.
type walk[P any] struct {
	steps []step[P]
	Done  []string
	back  []int // what is still to be undone, next first
	errs  []error
}

// next is the next step to do, or nil at the end of the list.
func (w *walk[P]) next(p *P) *step[P] {
	for i := w.reached(p); i < len(w.steps); i++ {
		if s := &w.steps[i]; s.skip == nil || !s.skip(p) {
			return s
		}
	}
	return nil
}

// reached is the index behind the last step done on the way forth. (A step the
// plan skips can be among Done for the sake of its undo.)
func (w *walk[P]) reached(p *P) int {
	for _, name := range slices.Backward(w.Done) {
		if i := w.index(name); i >= 0 && (w.steps[i].skip == nil || !w.steps[i].skip(p)) {
			return i + 1
		}
	}
	return 0
}

func (w *walk[P]) index(name string) int {
	for i := range w.steps {
		if w.steps[i].name == name {
			return i
		}
	}
	return -1 // a step of another version of Troupe: nothing here knows its undo
}

// turn plans the way back: all steps of the phase that may hold something,
// last first. With half, a start was cut off: the step after the last one done
// may hold something too, because its do may have run without being journalled.
// It counts as done from here on, until its undo has succeeded.
func (w *walk[P]) turn(p *P, to phase, half bool) {
	w.back, w.errs = w.back[:0], nil
	if s := w.next(p); half && s != nil {
		w.Done = append(w.Done[:len(w.Done):len(w.Done)], s.name)
	}
	held := map[string]bool{}
	for _, n := range w.Done {
		held[n] = true
	}
	for i := len(w.steps) - 1; i >= 0; i-- {
		if s := &w.steps[i]; held[s.name] && s.on <= to {
			w.back = append(w.back, i)
		}
	}
}

// undoing is the step to undo now, or nil when the way back has ended.
func (w *walk[P]) undoing() *step[P] {
	if len(w.back) == 0 {
		return nil
	}
	return &w.steps[w.back[0]]
}

// undone notes the outcome of one undo and goes on with the steps beneath it.
// The first step of a list is its record: it stays while anything else is left,
// so that the rest is tried again and is never forgotten.
func (w *walk[P]) undone(err error) {
	i := w.back[0]
	s := &w.steps[i]
	w.back = w.back[1:]
	if err != nil {
		w.errs = append(w.errs, fmt.Errorf("undo %s: %w", s.name, err))
		if s.gate {
			w.back = nil
		}
	} else {
		w.forget(s.name)
	}
	if len(w.errs) > 0 && len(w.back) == 1 && w.back[0] == 0 {
		w.back = nil
	}
}

func (w *walk[P]) forget(name string) {
	for i, n := range w.Done {
		if n == name {
			w.Done = append(w.Done[:i:i], w.Done[i+1:]...)
			return
		}
	}
}

// failed joins what went wrong on the way back; nil when all is undone.
func (w *walk[P]) failed() error { return errors.Join(w.errs...) }

// backoff is the wait before try n (from 0) of something that must not be given up.
func backoff(s Settings, n int) time.Duration {
	d := s.RetryMin
	for range min(n, 30) {
		if d *= 2; d >= s.RetryMax {
			return s.RetryMax
		}
	}
	return d
}

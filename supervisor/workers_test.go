package supervisor

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-run/troupe/actors"
)

// Jobs are queued just when the ones before have ended: at the moment at which
// the queue of their key becomes empty.
func TestJobsOfAKeyRunOnceAndOneAtATime(t *testing.T) {
	w := newWorkers(t.Context(), DefaultLimits())
	var all sync.WaitGroup
	for k := range 100 {
		var atOnce, ran atomic.Int64
		for range 4 {
			all.Go(func() {
				for range 500 {
					done := make(chan struct{}, 8)
					w.Go(actors.Job{Key: fmt.Sprint(k), Run: func(context.Context) {
						if atOnce.Add(1) != 1 {
							t.Error("two jobs of one key run at once")
						}
						ran.Add(1)
						atOnce.Add(-1)
						done <- struct{}{}
					}})
					<-done
				}
			})
		}
		t.Cleanup(func() {
			if n := ran.Load(); n != 2000 {
				t.Errorf("2000 jobs ran %d times", n)
			}
		})
	}
	all.Wait()
}

// A job that waits for something else lends its place, and takes one again when
// it goes on, though others may be in by then.
func TestAnIdleJobLendsItsPlaceAndTheLaneIsAsWideAsBeforeInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.Layer = 1
		w := newWorkers(t.Context(), limits)
		var in []string
		job := func(name string) (actors.Work, chan struct{}) {
			end := make(chan struct{})
			return w.Go(actors.Job{Key: name, Lane: actors.LaneLayer, Run: func(context.Context) {
				in = append(in, name)
				<-end
			}}), end
		}
		want := func(step, names string) {
			t.Helper()
			synctest.Wait()
			if got := fmt.Sprint(in); got != names {
				t.Errorf("%s: in were %s, want %s", step, got, names)
			}
		}
		a, endA := job("a")
		want("the first", "[a]")
		_, endB := job("b")
		want("the only place is taken", "[a]")
		a.Idle(true)
		a.Idle(true)
		want("it was lent", "[a b]")
		a.Idle(false)
		_, endC := job("c")
		want("both go on", "[a b]")
		close(endB)
		want("one of two has left one place too many", "[a b]")
		a.Idle(true)
		want("lent again", "[a b c]")
		close(endA) // while idle: its place is another's
		_, endD := job("d")
		want("still one", "[a b c]")
		close(endC)
		want("the next", "[a b c d]")
		close(endD)
		synctest.Wait()
		a.Idle(false) // it has ended
		if free := w.lanes[actors.LaneLayer].Free(); free != 1 {
			t.Errorf("%d places are free at the end", free)
		}
	})
}

// A step that waits for something dead does not keep the others from starting,
// and is done all the same.
func TestAStepThatHangsLendsItsPlaceInTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.Start = 1
		w := newWorkers(t.Context(), limits)
		hang, begin := make(chan struct{}), time.Now()
		var ended []string
		w.Go(actors.Job{Key: "dead", Lane: actors.LaneStart, Run: func(context.Context) { <-hang; ended = append(ended, "dead") }})
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			w.Go(actors.Job{Key: name, Lane: actors.LaneStart, Run: func(context.Context) { ended = append(ended, name) }})
		}
		time.Sleep(lendAfter + time.Second)
		synctest.Wait()
		if len(ended) != 2 {
			t.Errorf("%s after the first has ended: %v", time.Since(begin), ended)
		}
		close(hang)
		synctest.Wait()
		if free := w.lanes[actors.LaneStart].Free(); free != 1 || len(ended) != 3 {
			t.Errorf("%d places are free at the end, ended: %v", free, ended)
		}
	})
}

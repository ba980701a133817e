package supervisor

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/troupe-run/troupe/actors"
)

// Each job is queued just when the one before has ended: the moment at which
// the queue of the key becomes empty.
func TestJobsOfAKeyRunOnceAndOneAtATime(t *testing.T) {
	w := newWorkers(t.Context(), DefaultLimits())
	var ran, atOnce atomic.Int64
	const jobs = 20000
	var all sync.WaitGroup
	all.Add(jobs)
	var next func(n int)
	next = func(n int) {
		w.Go(actors.Job{Key: "k", Run: func(context.Context) {
			if atOnce.Add(1) != 1 {
				t.Error("two jobs of one key run at once")
			}
			ran.Add(1)
			atOnce.Add(-1)
			if n > 1 {
				go next(n - 1)
			}
			all.Done()
		}})
	}
	next(jobs)
	all.Wait()
	if ran.Load() != jobs {
		t.Errorf("%d jobs ran %d times", jobs, ran.Load())
	}
}

package supervisor

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

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

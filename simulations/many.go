package simulations

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Many is many runs, of seeds that follow each other.
type Many struct {
	First   uint64
	Seeds   int
	Pods    int  // of each run
	All     bool // all faults in each run; see Draw
	Workers int  // runs at a time; 0: one
	// Until, if set, is when no further run begins.
	Until time.Time
	// Ended is told of each run, one at a time; may be nil.
	Ended func(Result)
}

// Summary is what came of many runs.
type Summary struct {
	Seeds, Pods int
	Injected    map[string]int // faults by kind
	Broken      []Result       // runs in which a promise was broken, by seed
	Took        time.Duration
}

// heapLimit is in bytes, for all runs that are under way together.
const heapLimit = 1 << 30

// Do runs them.
func (m Many) Do() Summary {
	// A run makes much garbage and keeps little: it is collected when there is
	// this much, not each time there is as much as is kept.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(heapLimit))
	begun := time.Now()
	s := Summary{Injected: map[string]int{}}
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range max(1, m.Workers) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= uint64(m.Seeds) || !m.Until.IsZero() && time.Now().After(m.Until) {
					return
				}
				r := Run{Seed: m.First + i, Pods: m.Pods, All: m.All}.Do()
				mu.Lock()
				s.take(r)
				if m.Ended != nil {
					m.Ended(r)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.Took = time.Since(begun)
	slices.SortFunc(s.Broken, func(a, b Result) int { return cmp.Compare(a.Seed, b.Seed) })
	return s
}

func (s *Summary) take(r Result) {
	s.Seeds++
	s.Pods += r.Pods
	for kind, n := range r.Injected {
		s.Injected[kind] += n
	}
	if len(r.Failures) > 0 {
		s.Broken = append(s.Broken, r)
	}
}

// String is the last line of `make sim`.
func (s Summary) String() string {
	faults, broken := 0, 0
	for _, n := range s.Injected {
		faults += n
	}
	for _, r := range s.Broken {
		broken += len(r.Failures)
	}
	return fmt.Sprintf("sim: %d seeds, %d pods, %d faults of %d kinds, %d invariants broken, %s",
		s.Seeds, s.Pods, faults, len(s.Injected), broken, s.Took.Round(time.Second))
}

// Kinds are the kinds of faults, sorted.
func (s Summary) Kinds() []string { return slices.Sorted(maps.Keys(s.Injected)) }

// Shorten looks for a smaller run that breaks a promise too: with fewer pods,
// then without one kind of fault after the other, and gives up after a while.
// Without failures in the result it found none, not even r. (Another promise may
// be broken than in r: a smaller run goes another way.)
func (r Run) Shorten(within time.Duration) (Run, Result) {
	until := time.Now().Add(within)
	return r.shorten(func(smaller Run) Result {
		if time.Now().After(until) {
			return Result{}
		}
		return smaller.Do()
	})
}

func (r Run) shorten(do func(Run) Result) (best Run, result Result) {
	best = r
	plan := r.plan()
	best.Faults = &plan
	fails := func(smaller Run) bool {
		one := do(smaller)
		if len(one.Failures) > 0 {
			best, result = smaller, one
		}
		return len(one.Failures) > 0
	}
	for shrunk := true; shrunk; {
		shrunk = false
		for _, pods := range []int{best.Pods / 8, best.Pods / 2, best.Pods * 3 / 4, best.Pods - 1} {
			smaller := best
			smaller.Pods = pods
			if pods > 0 && pods < best.Pods && fails(smaller) {
				shrunk = true
				break
			}
		}
		for i := range reflect.TypeFor[Faults]().NumField() {
			plan := *best.Faults
			field := reflect.ValueOf(&plan).Elem().Field(i)
			if field.IsZero() {
				continue
			}
			field.SetZero()
			smaller := best
			smaller.Faults = &plan
			shrunk = fails(smaller) || shrunk
		}
	}
	return best, result
}

// Package gate bounds how many do something at once, and says who is next.
package gate

import (
	"container/heap"
	"context"
	"sync"
)

// Gate lets a number of jobs in at a time. Of those that wait the one with the
// highest rank goes first, among equals the one that came first.
type Gate struct {
	fair    bool
	mu      sync.Mutex
	free    int64 // below 0: more are in than there are places
	waiting ranked
	came    uint64
	given   uint64 // places, to those that waited
}

type ticket struct {
	rank  int64
	came  uint64
	index int           // in waiting; -1: not there any more
	in    chan struct{} // closed when its turn has come
}

const oldestEach = 4

// New makes a gate with so many places, all free.
func New(places int64) *Gate { return &Gate{free: places} }

// Fair makes one in which each fourth place goes to who came first of all, so
// that nobody waits for ever while others of higher rank keep coming.
func Fair(places int64) *Gate { return &Gate{free: places, fair: true} }

// Enter waits for a place, which Leave gives back, or for the end of ctx.
func (g *Gate) Enter(ctx context.Context, rank int64) error {
	g.mu.Lock()
	if ctx.Err() == nil && g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	g.came++
	t := &ticket{rank: rank, came: g.came, in: make(chan struct{})}
	heap.Push(&g.waiting, t)
	g.mu.Unlock()
	select {
	case <-t.in:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.index < 0 { // at the same moment: it has the place
		return nil
	}
	heap.Remove(&g.waiting, t.index)
	return ctx.Err()
}

// Leave gives the place to the next, unless more are in than there are places.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free++
	for g.free > 0 && len(g.waiting) > 0 {
		g.given++
		g.free--
		close(heap.Remove(&g.waiting, g.next()).(*ticket).in)
	}
}

// next is the index of who goes in now. With mu held.
func (g *Gate) next() int {
	if !g.fair || g.given%oldestEach != 0 {
		return 0
	}
	oldest := g.waiting[0]
	for _, t := range g.waiting {
		if t.came < oldest.came {
			oldest = t
		}
	}
	return oldest.index
}

// Force takes a place although there may be none.
func (g *Gate) Force() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free--
}

// Free says how many places are free; below 0, how many too many are in.
func (g *Gate) Free() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.free
}

// ranked is a heap (container/heap) of those who wait.
type ranked []*ticket

func (r ranked) Len() int { return len(r) }

func (r ranked) Less(i, j int) bool {
	if r[i].rank != r[j].rank {
		return r[i].rank > r[j].rank
	}
	return r[i].came < r[j].came
}

func (r ranked) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].index, r[j].index = i, j
}

func (r *ranked) Push(t any) {
	t.(*ticket).index = len(*r)
	*r = append(*r, t.(*ticket))
}

func (r *ranked) Pop() any {
	old := *r
	last := len(old) - 1
	t := old[last]
	t.index = -1
	old[last] = nil
	*r = old[:last]
	return t
}

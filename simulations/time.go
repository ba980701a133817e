package simulations

import (
	"container/heap"
	"time"
)

// timer is one entry of the only list of what will happen.
type timer struct {
	at   time.Duration // since the beginning
	seq  uint64        // ties go in the order they were set
	life *life         // whose daemon's death takes it away; nil: the world's
	f    func()
	here int // its place in the list; -1: none
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].here, h[j].here = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.here = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	t.here, old[len(old)-1] = -1, nil
	*h = old[:len(old)-1]
	return t
}

// cancel takes a timer off the list, if it is there: most are the limits of jobs
// that ended in time, and would make the list long.
func (w *World) cancel(t *timer) {
	if t.here >= 0 {
		heap.Remove(&w.timers, t.here)
	}
}

func (w *World) after(l *life, d time.Duration, f func()) *timer {
	w.seq++
	t := &timer{at: w.now.Sub(w.epoch) + d, seq: w.seq, life: l, f: f}
	heap.Push(&w.timers, t)
	return t
}

// simClock is the actors' clock.
type simClock struct {
	w *World
	l *life
}

func (c simClock) Now() time.Time { return c.w.now.Add(c.l.skew) }

func (c simClock) AfterFunc(d time.Duration, f func()) func() {
	t := c.w.after(c.l, d, f)
	return func() { c.w.cancel(t) }
}

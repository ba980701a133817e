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
	off  bool
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(*timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
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
	return func() { t.off = true }
}

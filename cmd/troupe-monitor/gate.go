//go:build linux && cgo

package main

import (
	"sync"
	"time"
)

// gate lets many in, and can be shut for a moment in which nobody is inside. A
// RWMutex would do, but who waits to shut one shuts it for all others, however
// long somebody stays inside.
type gate struct {
	mu     sync.Mutex
	inside int
	shutBy chan struct{} // closed when it opens again; nil: it is open
	empty  chan struct{} // closed when the last has left, while somebody waits for that
}

func (g *gate) enter() {
	for {
		g.mu.Lock()
		shut := g.shutBy
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		<-shut
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// shut shuts it for new ones and waits at most so long until nobody is inside.
// It says whether that came; then open must follow. Only one may shut it.
func (g *gate) shut(wait time.Duration) bool {
	g.mu.Lock()
	if g.inside > 0 && wait <= 0 {
		g.mu.Unlock()
		return false
	}
	g.shutBy = make(chan struct{})
	if g.inside == 0 {
		g.mu.Unlock()
		return true
	}
	empty := make(chan struct{})
	g.empty = empty
	g.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-time.After(wait):
	}
	g.mu.Lock()
	g.empty = nil
	left := g.inside == 0 // at the same moment
	g.mu.Unlock()
	if !left {
		g.open()
	}
	return left
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shutBy)
	g.shutBy = nil
}

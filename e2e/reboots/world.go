package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// world is what the host knows of the machine's pods: what was asked, and what
// was answered.
type world struct {
	podsBy  map[string]*pod // by name/attempt
	images  map[string]call // pulls
	removed map[string]call // removals of images
}

// call is a call to the daemon, by the machine's clock. Zero is never.
type call struct{ asked, answered time.Duration }

type pod struct {
	name              string
	attempt           uint32
	id                string
	created           int64
	run, stop, remove call
	containers        map[string]*container
}

type container struct {
	name, id                    string
	created                     int64
	create, start, stop, remove call
	ends                        int32         // the code it ends with by itself; 0: it does not
	code                        int32         // which was shown
	seen                        time.Duration // when
}

func newWorld() *world {
	return &world{podsBy: map[string]*pod{}, images: map[string]call{}, removed: map[string]call{}}
}

func key(name string, attempt uint32) string { return fmt.Sprintf("%s/%d", name, attempt) }

// next gives each name the attempt that comes next.
func (w *world) next() map[string]uint32 {
	next := map[string]uint32{}
	for _, p := range w.podsBy {
		next[p.name] = max(next[p.name], p.attempt+1)
	}
	return next
}

// note takes in what the machine did.
func (w *world) note(e Event) {
	at := func(c *call) {
		if e.Kind == "do" {
			c.asked = e.After
		} else {
			c.answered = e.After
		}
	}
	if e.Op == "pull" || e.Op == "unpull" {
		into := w.images
		if e.Op == "unpull" {
			into = w.removed
		}
		c := into[e.Text]
		if e.Kind == "do" { // the last counts
			c = call{}
			delete(w.images, e.Text)
			delete(w.removed, e.Text)
		}
		at(&c)
		into[e.Text] = c
		return
	}
	k := key(e.Pod, e.Attempt)
	p := w.podsBy[k]
	if p == nil {
		p = &pod{name: e.Pod, attempt: e.Attempt, containers: map[string]*container{}}
		w.podsBy[k] = p
	}
	if e.Container == "" {
		switch e.Op {
		case "run":
			at(&p.run)
			p.id, p.created = or(e.ID, p.id), or(e.Created, p.created)
		case "stop":
			at(&p.stop)
		case "remove":
			at(&p.remove)
		}
		return
	}
	c := p.containers[e.Container]
	if c == nil {
		c = &container{name: e.Container}
		p.containers[e.Container] = c
	}
	switch {
	case e.Kind == "exited":
		c.code, c.seen = e.Code, e.After
	case e.Op == "create":
		at(&c.create)
		c.id, c.created, c.ends = or(e.ID, c.id), or(e.Created, c.created), or(e.Code, c.ends)
	case e.Op == "start":
		at(&c.start)
	case e.Op == "stop":
		at(&c.stop)
	case e.Op == "remove":
		at(&c.remove)
	}
}

func or[T comparable](a, b T) T {
	var zero T
	if a == zero {
		return b
	}
	return a
}

// phases says in what states the end met what there was.
func (w *world) phases() string {
	n := map[string]int{}
	for _, p := range w.podsBy {
		switch {
		case p.remove.answered > 0:
			continue
		case p.run.answered == 0:
			n["pods starting"]++
		case p.remove.asked > 0:
			n["pods being removed"]++
		case p.stop.asked > 0 && p.stop.answered == 0:
			n["pods being stopped"]++
		}
		for _, c := range p.containers {
			switch {
			case c.remove.answered > 0:
			case c.remove.asked > 0:
				n["being removed"]++
			case c.seen > 0:
				n["exited"]++
			case c.stop.asked > 0:
				n["being stopped"]++
			case c.start.answered > 0:
				n["running"]++
			case c.start.asked > 0:
				n["being started"]++
			case c.create.answered > 0:
				n["created"]++
			default:
				n["being created"]++
			}
		}
	}
	for _, c := range w.images {
		if c.answered == 0 {
			n["images being pulled"]++
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[k], k))
	}
	return strings.Join(out, ", ")
}

// forget keeps of each pod only that its attempt is taken: all that is listed
// now will be removed, and what is not is gone.
func (w *world) forget(f *Found) {
	for k, p := range w.podsBy {
		w.podsBy[k] = &pod{name: p.name, attempt: p.attempt, containers: map[string]*container{}, run: call{1, 0}, remove: call{1, 1}}
	}
	_ = f
}

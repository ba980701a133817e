package simulations

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

// sides are images that share layers with each other and with the pods' images.
// The last wants credentials.
const sides = 4

func side(n int) string { return fmt.Sprintf("registry.local/side-%d:1", n%sides) }

var sideAuth = &messages.Auth{Username: "kube", Password: "right"}

func (w *World) publishSides() {
	for i := range sides {
		img := fake.Image{Layers: []fake.Layer{
			{Name: "base", Size: 5 << 20},
			{Name: "shared", Size: 40 << 20},
			{Name: fmt.Sprintf("shared-%d", i/2), Size: 20 << 20},
			{Name: fmt.Sprintf("side-%d", i), Size: 1 << 20},
			{Name: fmt.Sprintf("tiny-%d", i), Size: 100},
		}}
		if i == sides-1 {
			img.Auth = sideAuth
		}
		w.Node.Publish(side(i), img)
	}
}

// puller pulls and removes images beside the pods: often with too little time,
// sometimes without the right, always together with others.
type puller struct {
	w *World
	p *proc
	n int
}

func (k *puller) life() {
	w, p := k.w, k.p
	for range 1 + w.rng.IntN(4) {
		p.sleep(w.between(0, w.spread()/2))
		k.pull()
		if w.chance(0.3) {
			_, _ = w.ask(p, messages.RemoveImage{Ref: side(w.rng.IntN(sides))}, 10*time.Minute)
		}
	}
}

func (k *puller) pull() {
	w, p := k.w, k.p
	n := w.rng.IntN(sides)
	m := messages.PullImage{Ref: side(n), Namespace: []string{"", "sim"}[w.rng.IntN(2)]}
	private, right := n == sides-1, w.chance(0.5)
	if right {
		m.Auth = sideAuth
	} else if w.chance(0.5) {
		m.Auth = &messages.Auth{Username: "kube", Password: "wrong"}
	}
	var err error
	if w.chance(0.5) {
		limit := w.between(10*time.Millisecond, 20*time.Second)
		m.Deadline = w.wall().Add(limit)
		_, err = w.try(p, m, limit)
	} else {
		_, err = w.ask(p, m, 20*time.Minute)
	}
	switch {
	case private && !right && err == nil:
		w.fail("%s was given %s, which it has no right to", p.name, m.Ref)
	case (!private || right) && messages.KindOf(err) == messages.Unauthorized:
		w.fail("%s was refused %s, which it has the right to: %v", p.name, m.Ref, err)
	case err != nil:
		w.say(p.name, "pull: "+err.Error())
	}
}

// images checks that the actors fetch no blob twice at a time: the daemon that
// has this backend would download it twice.
type images struct {
	backends.Images
	w        *World
	fetching map[string]bool
}

func (i *images) Fetch(ctx context.Context, r backends.PullRequest, m backends.Manifest, l backends.Layer, progress func(backends.Progress)) error {
	if i.fetching[l.Digest] {
		i.w.fail("blob %s is fetched twice at a time", l.Digest)
	}
	i.fetching[l.Digest] = true
	defer delete(i.fetching, l.Digest)
	if n, most := len(i.fetching), i.w.life.lanes[actors.LaneLayer].most(); n > most {
		i.w.fail("%d layers are fetched at a time instead of at most %d", n, most)
	}
	return i.Images.Fetch(ctx, r, m, l, progress)
}

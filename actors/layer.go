package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// progressEvery bounds how often a download tells how far it is.
const progressEvery = 100 * time.Millisecond

// layer downloads one blob for all pulls that want it.
type layer struct {
	crew
	layer backends.Layer
	pulls waiters
	by    *actor.PID // the pull whose credentials are used
	since time.Time
	over  bool // or cancelled, and about to be
}

func newLayer(env *Env) actor.Producer {
	return func() actor.Actor { return &layer{crew: crew{env: env}} }
}

// Receive implements actor.Actor.
func (l *layer) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		l.start(l.env, ctx, ctx.Self().Id)
	case *actor.Stopped:
		l.env.Index.dropActor(ctx.Self().Id)
	case *actor.Restarting: // the pulls ask again
		l.handled(m)
		l.tell(errLayerEnding)
	case *actor.Stopping:
		l.handled(m)
		l.tell(messages.Errorf(messages.Unavailable, "%s was ended before it had the layer: pull again", ctx.Self().Id))
	case needLayer:
		l.onNeed(ctx.Sender(), m)
	case layerUnwanted:
		if l.pulls.leave(m.by) && len(l.pulls) == 0 && !l.over {
			l.over = true
			l.cancel() // its outcome ends this actor
		}
	case layerBytes:
		for _, pid := range l.pulls {
			l.env.send(pid, m)
		}
	default:
		if !l.handled(m) {
			unexpected(l.env, ctx, "fetching")
		}
	}
}

func (l *layer) onNeed(sender *actor.PID, m needLayer) {
	if l.over {
		l.env.send(sender, layerDone{digest: m.layer.Digest, err: errLayerEnding})
		return
	}
	l.pulls.join(sender)
	if len(l.busy) > 0 {
		return
	}
	l.layer, l.by, l.since = m.layer, sender, l.env.Clock.Now()
	l.env.Index.putActor(messages.ActorInfo{Path: l.self.Id, Kind: "layer", State: "fetching", Since: l.since})
	l.fetch(m)
}

func (l *layer) fetch(m needLayer) {
	env, self := l.env, l.self
	var last time.Time
	progress := func(n backends.Progress) {
		if now := env.Clock.Now(); now.Sub(last) >= progressEvery {
			last = now
			env.send(self, layerBytes{digest: m.layer.Digest, bytes: n.Received})
		}
	}
	l.do(Job{Lane: LaneImage, Name: "fetch"}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Images.Fetch(ctx, m.req, m.manifest, m.layer, progress)
	}, l.fetched)
}

// fetched tells the pulls. A failure is told only to the pull whose credentials
// were used; the others ask again, and the download begins with theirs.
func (l *layer) fetched(d done) {
	l.over = true
	if d.err != nil {
		if l.pulls.leave(l.by) {
			l.env.send(l.by, layerDone{digest: l.layer.Digest, err: d.err})
		}
		l.tell(errLayerEnding)
	}
	l.tell(nil)
	l.env.send(l.env.images, layerGone{digest: l.layer.Digest})
}

// tell says to all pulls that still wait how it ended.
func (l *layer) tell(err error) {
	for _, pid := range l.pulls {
		l.env.send(pid, layerDone{digest: l.layer.Digest, err: err})
	}
	l.pulls = nil
}

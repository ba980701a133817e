package actors

import (
	"context"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// layer fetches one layer for all pulls that want it.
type layer struct {
	crew
	layer    backends.Layer
	pulls    waiters
	by       *actor.PID // the pull whose credentials are used
	reporter *reporter
	rate     meter
	progress messages.LayerProgress // as the pulls know it
	over     bool                   // or cancelled, and about to be
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
	case fetchReport:
		l.onReport(m)
	default:
		if !l.handled(m) {
			unexpected(l.env, ctx, l.progress.State)
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
		l.env.send(sender, layerMoved{l.progress})
		return
	}
	l.layer, l.by = m.layer, sender
	l.fetch(m)
}

func (l *layer) fetch(m needLayer) {
	r := &reporter{env: l.env, to: l.self, size: m.layer.Size}
	l.reporter, l.rate = r, meter{}
	l.show(messages.LayerProgress{Digest: m.layer.Digest, Size: m.layer.Size, State: messages.LayerWaiting})
	env := l.env
	// The biggest of all pulls goes first: what takes longest must not begin last.
	l.do(Job{Lane: LaneLayer, Rank: m.layer.Size, Name: "fetch"}, func(ctx context.Context) (any, error) {
		if ctx.Err() != nil { // cancelled while it waited for its turn
			return nil, ctx.Err()
		}
		r.begin()
		return nil, env.Node.Images.Fetch(ctx, m.req, m.manifest, m.layer, r.report)
	}, l.fetched)
}

// onReport shows how far the worker is, and looks again when it tells nothing.
func (l *layer) onReport(r fetchReport) {
	if r.from != l.reporter || len(l.busy) == 0 { // an earlier instance's
		return
	}
	if l.progress.State == messages.LayerWaiting {
		l.lookLater()
	}
	l.update(r)
}

func (l *layer) lookLater() {
	l.after(lookEvery, func() {
		if len(l.busy) > 0 {
			l.update(l.reporter.latest())
			l.lookLater()
		}
	})
}

func (l *layer) update(r fetchReport) {
	now := l.env.Clock.Now()
	if len(l.rate.samples) == 0 && r.base >= 0 {
		l.rate.add(r.begun, r.base)
	}
	if r.Received != l.progress.Received {
		l.rate.add(now, r.Received)
	}
	p := messages.LayerProgress{
		Digest: l.layer.Digest, State: messages.LayerDownloading, Received: r.Received, Unpacked: r.Unpacked, Size: l.layer.Size,
		Begun: r.begun, Moved: r.moved, Stalled: now.Sub(r.moved) >= stalledAfter, Tries: r.tries, Trouble: r.trouble,
	}
	if p.Size >= 0 && p.Received >= p.Size {
		p.State = messages.LayerUnpacking
	}
	if !p.Stalled {
		p.Rate = l.rate.rate(now)
	}
	if p.Stalled != l.progress.Stalled {
		l.idle(p.Stalled) // a silent registry keeps no other from its turn
	}
	if p != l.progress {
		l.show(p)
	}
}

func (l *layer) show(p messages.LayerProgress) {
	if p.State != l.progress.State {
		l.env.Index.putActor(messages.ActorInfo{Path: l.self.Id, Kind: "layer", State: p.State, Since: l.env.Clock.Now()})
	}
	l.progress = p
	for _, pid := range l.pulls {
		l.env.send(pid, layerMoved{p})
	}
}

// fetched tells the pulls. A failure is told only to the pull whose credentials
// were used; the others ask again, and the download begins with theirs.
func (l *layer) fetched(d done) {
	l.over = true
	if r := l.reporter.latest(); !r.begun.IsZero() {
		l.update(r)
	}
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

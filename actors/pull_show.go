package actors

import "github.com/troupe-run/troupe/messages"

// pastOfPull bounds the timeline of one pull: a bad line stalls again and again.
const pastOfPull = 300

// become changes the state.
func (p *pull) become(state string) {
	from := p.shown.State
	p.shown.State, p.shown.Since = state, p.env.Clock.Now()
	p.happened(messages.Edge{From: from, To: state})
}

// happened adds to the timeline, logs and publishes.
func (p *pull) happened(e messages.Edge) {
	e.At = p.env.Clock.Now()
	if e.To == "" {
		e.From, e.To = p.shown.State, p.shown.State
	}
	past := p.shown.Timeline
	if len(past) == pastOfPull { // the beginning is kept
		past = append(past[:pastOfPull/4:pastOfPull/4], past[pastOfPull/4+1:]...)
	}
	p.shown.Timeline = append(past, e)
	attrs := []any{"image", p.shown.Name(), "state", e.To}
	if e.Step != "" {
		attrs = append(attrs, "step", e.Step)
	}
	if e.Err != "" {
		attrs = append(attrs, "err", e.Err)
	}
	p.env.Log.Info("pull", attrs...)
	p.publish()
}

func (p *pull) publish() {
	if p.over {
		return
	}
	pr := p.withLayers()
	p.env.Index.putPull(p.name, pullKey(p.wish), pr)
	p.env.Index.putActor(messages.ActorInfo{Path: p.name, Kind: "pull", State: pr.State, Since: pr.Since, Step: pr.Name()})
}

func (p *pull) withLayers() messages.PullProgress {
	pr := p.shown
	pr.Waiters = len(p.callers)
	pr.Layers = make([]messages.LayerProgress, len(p.order))
	for i, digest := range p.order {
		pr.Layers[i] = p.progress[digest]
	}
	return pr
}

// onMoved is a layer's progress. That it stands still, and that it goes on, is
// noted.
func (p *pull) onMoved(l messages.LayerProgress) {
	if _, wanted := p.missing[l.Digest]; !wanted || p.over {
		return
	}
	before := p.progress[l.Digest]
	p.progress[l.Digest] = l
	switch {
	case l.Stalled && !before.Stalled:
		p.happened(messages.Edge{Step: "layer " + l.Digest + " stalled", Err: l.Describe(p.env.Clock.Now())})
	case before.Stalled && !l.Stalled:
		p.happened(messages.Edge{Step: "layer " + l.Digest + " resumed", Took: l.Moved.Sub(before.Moved)})
	case l.Tries > before.Tries && l.Tries > 1:
		p.happened(messages.Edge{Step: "layer " + l.Digest + " tried again", Err: l.Trouble})
	default:
		p.publish()
	}
}

// endShow is the last that is published of the pull.
func (p *pull) endShow(img messages.Image, err error) {
	if err == nil {
		for _, digest := range p.order {
			l := p.progress[digest]
			l.State = messages.LayerDone
			p.progress[digest] = l
		}
	} else {
		p.shown.Error = err.Error()
	}
	from, now := p.shown.State, p.env.Clock.Now()
	p.shown.State, p.shown.Since = "done", now
	edge := messages.Edge{From: from, To: "done", Took: now.Sub(p.shown.Begun)}
	if err != nil {
		p.shown.State, edge.To, edge.Err = "failed", "failed", p.shown.Error
	}
	p.happened(edge)
	p.env.Index.endPull(p.name, p.withLayers())
}

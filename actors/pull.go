package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// pull brings one image: resolving → fetching (layer actors work) → committing.
// Callers join and leave; when none is left while it fetches, it ends.
type pull struct {
	crew
	name     string // its place in the index
	wish     messages.PullImage
	req      backends.PullRequest
	shown    messages.PullProgress // its layers are kept below
	manifest backends.Manifest
	order    []string // digests of the layers, each once
	progress map[string]messages.LayerProgress
	missing  map[string]backends.Layer
	applied  int  // so many layers, from the lowest on, are in the store
	applying bool // a worker puts more of them there
	callers  waiters
	over     bool
}

// errLayerEnding: ask again in a moment.
var errLayerEnding = errors.New("the layer's last download is just ending")

// layerDone and layerMoved come from layer actors.
type (
	layerDone struct {
		digest string
		err    error
	}
	layerMoved    struct{ messages.LayerProgress }
	layerUnwanted struct {
		digest string
		by     *actor.PID
	}
)

func newPull(env *Env, m messages.PullImage) actor.Producer {
	m.Call = messages.Call{} // each caller has its own
	return func() actor.Actor {
		return &pull{
			crew: crew{env: env}, wish: m,
			req:      backends.PullRequest{Ref: m.Ref, Auth: m.Auth, Namespace: m.Namespace, Source: m.Source},
			shown:    messages.PullProgress{Ref: m.Ref, Namespace: m.Namespace, Source: m.Source},
			progress: map[string]messages.LayerProgress{}, missing: map[string]backends.Layer{},
		}
	}
}

// Receive implements actor.Actor.
func (p *pull) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		p.name = ctx.Self().Id
		p.start(p.env, ctx, p.name)
		p.shown.Begun = p.env.Clock.Now()
		p.resolve()
	case *actor.Stopped:
		p.env.Index.dropPull(p.name)
		p.env.Index.dropActor(p.name)
	case *actor.Stopping, *actor.Restarting:
		p.handled(m)
		settle(p.env, p.self, p)
	case messages.PullImage:
		p.onCaller(ctx.Sender())
	case messages.Abandon:
		p.onAbandon(m.Caller)
	case layerMoved:
		p.onMoved(m.LayerProgress)
	case layerDone:
		p.onLayer(m)
	case messages.Reply: // from the supervisor: who was asked for a layer panicked
		for _, digest := range sortedKeys(p.missing) {
			p.onLayer(layerDone{digest: digest, err: errLayerEnding})
		}
	default:
		if !p.handled(m) {
			unexpected(p.env, ctx, p.shown.State)
		}
	}
}

func (p *pull) debts() []*waiters { return []*waiters{&p.callers} }

func (p *pull) onCaller(sender *actor.PID) {
	if p.over { // it ended while this caller was on its way: the next pull is quick
		p.env.System.Root.RequestWithCustomSender(p.env.images, p.wish, sender)
		return
	}
	p.callers.join(sender)
	p.publish()
}

// onAbandon ends a pull that nobody waits for; the backend keeps what has come
// for a while. A commit is let finish: the bytes are here.
func (p *pull) onAbandon(caller string) {
	if !p.callers.leave(actor.NewPID(p.self.Address, caller)) || p.over {
		return
	}
	if len(p.callers) > 0 || p.shown.State == "committing" {
		p.publish()
		return
	}
	p.cancel()
	p.fail(messages.Errorf(messages.Canceled, "nobody waits for it any more"))
}

func (p *pull) resolve() {
	p.become("resolving")
	req, limit := p.req, p.env.Settings.StepLimit
	if req.Source != "" {
		limit = 0 // an archive of any size may have to be unpacked first
	}
	p.do(Job{Lane: LaneImage, Name: "resolve", Limit: limit}, func(ctx context.Context) (any, error) {
		return p.env.Node.Images.Resolve(ctx, req)
	}, func(d done) {
		if p.over {
			return
		}
		if d.err != nil {
			p.fail(fmt.Errorf("step resolve: %w", d.err))
			return
		}
		p.manifest = d.value.(backends.Manifest)
		if p.manifest.Present {
			p.commit()
			return
		}
		p.fetch()
	})
}

// fetch asks for all layers at once, the biggest first; the worker pool bounds
// what runs.
func (p *pull) fetch() {
	for _, l := range p.manifest.Layers {
		if _, twice := p.missing[l.Digest]; twice {
			continue
		}
		p.order = append(p.order, l.Digest)
		p.progress[l.Digest] = messages.LayerProgress{Digest: l.Digest, Size: l.Size, State: messages.LayerWaiting}
		p.missing[l.Digest] = l
	}
	p.become("fetching")
	if len(p.missing) == 0 {
		p.commit()
		return
	}
	for _, digest := range slices.SortedFunc(slices.Values(p.order), func(a, b string) int {
		return cmp.Or(-cmp.Compare(p.missing[a].Size, p.missing[b].Size), cmp.Compare(a, b))
	}) {
		p.need(p.missing[digest])
	}
}

func (p *pull) need(l backends.Layer) {
	p.env.System.Root.RequestWithCustomSender(p.env.images, needLayer{req: p.req, manifest: p.manifest, layer: l}, p.self)
}

func (p *pull) onLayer(m layerDone) {
	l, wanted := p.missing[m.digest]
	if p.over || !wanted {
		return
	}
	now := p.env.Clock.Now()
	if errors.Is(m.err, errLayerEnding) {
		p.after(p.env.Settings.RetryMin, func() {
			if !p.over {
				p.need(l)
			}
		})
		return
	}
	if m.err != nil {
		p.fail(fmt.Errorf("%s; %s: %w", p.progress[m.digest].Describe(now), p.withLayers().Totals(), m.err))
		return
	}
	delete(p.missing, m.digest)
	pr := p.progress[m.digest]
	pr.State, pr.Rate, pr.Stalled, pr.Received = messages.LayerReady, 0, false, max(pr.Size, pr.Received)
	p.progress[m.digest] = pr
	var took time.Duration
	if !pr.Begun.IsZero() {
		took = now.Sub(pr.Begun)
	}
	p.happened(messages.Edge{Step: "layer " + m.digest + " ready", Took: took})
	p.goOn()
}

// goOn commits when all layers are here. Until then what has come is put into
// the store: the library takes its time for each layer.
func (p *pull) goOn() {
	ready := p.applied
	for ready < len(p.manifest.Layers) {
		if _, missing := p.missing[p.manifest.Layers[ready].Digest]; missing {
			break
		}
		ready++
	}
	switch {
	case p.applying || p.over:
	case len(p.missing) == 0:
		p.commit()
	case ready > p.applied:
		p.apply(ready)
	}
}

// apply has no limit, as commit. Its failure is told by the commit, which does
// again what it has not done.
func (p *pull) apply(n int) {
	p.applying = true
	req, manifest := p.req, p.manifest
	p.do(Job{Lane: LaneImage, Name: "apply"}, func(ctx context.Context) (any, error) {
		return nil, p.env.Node.Images.Apply(ctx, req, manifest, n)
	}, func(d done) {
		p.applying, p.applied = false, n
		p.goOn()
	})
}

// commit has no limit: the bytes are here, and the disk takes what it takes.
func (p *pull) commit() {
	p.become("committing")
	req, manifest := p.req, p.manifest
	p.do(Job{Lane: LaneImage, Name: "commit"}, func(ctx context.Context) (any, error) {
		return p.env.Node.Images.Commit(ctx, req, manifest)
	}, func(d done) {
		if p.over {
			return
		}
		if d.err != nil {
			p.fail(fmt.Errorf("step commit: %w", d.err))
			return
		}
		p.end(d.value.(messages.Image), nil)
	})
}

func (p *pull) fail(err error) {
	p.end(messages.Image{}, fmt.Errorf("pull of %s: %w", p.shown.Name(), err))
}

// end reports to images, which unlinks this pull and answers its callers.
func (p *pull) end(img messages.Image, err error) {
	p.over = true
	for _, digest := range sortedKeys(p.missing) {
		p.env.send(p.env.images, layerUnwanted{digest: digest, by: p.self})
	}
	p.endShow(img, err)
	p.env.send(p.env.images, pullDone{key: pullKey(p.wish), image: img, err: err, callers: p.callers})
	p.callers = nil
}

package actors

import (
	"context"
	"errors"
	"fmt"
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
	pullKey  string
	req      backends.PullRequest
	state    string
	since    time.Time
	manifest backends.Manifest
	progress map[string]messages.LayerProgress
	missing  map[string]backends.Layer
	callers  waiters
	over     bool
}

// errLayerEnding: ask again in a moment.
var errLayerEnding = errors.New("the layer's last download is just ending")

// layerDone and layerBytes come from layer actors.
type (
	layerDone struct {
		digest string
		err    error
	}
	layerBytes struct {
		digest string
		bytes  int64
	}
	layerUnwanted struct {
		digest string
		by     *actor.PID
	}
)

func newPull(env *Env, key string, m messages.PullImage) actor.Producer {
	return func() actor.Actor {
		return &pull{
			crew: crew{env: env}, pullKey: key, req: backends.PullRequest{Ref: m.Ref, Auth: m.Auth, Namespace: m.Namespace},
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
	case layerBytes:
		if l, ok := p.progress[m.digest]; ok {
			l.Bytes = m.bytes
			p.progress[m.digest] = l
			p.publish()
		}
	case layerDone:
		p.onLayer(m)
	case messages.Reply: // from the supervisor: who was asked for a layer panicked
		for _, digest := range sortedKeys(p.missing) {
			p.onLayer(layerDone{digest: digest, err: errLayerEnding})
		}
	default:
		if !p.handled(m) {
			unexpected(p.env, ctx, p.state)
		}
	}
}

func (p *pull) debts() []*waiters { return []*waiters{&p.callers} }

func (p *pull) onCaller(sender *actor.PID) {
	if p.over { // it ended while this caller was on its way: the next pull is quick
		p.env.System.Root.RequestWithCustomSender(p.env.images, messages.PullImage{Ref: p.req.Ref, Auth: p.req.Auth, Namespace: p.req.Namespace}, sender)
		return
	}
	p.callers.join(sender)
	p.publish()
}

// onAbandon ends a pull that nobody waits for. A commit is let finish: the
// bytes are here.
func (p *pull) onAbandon(caller string) {
	if !p.callers.leave(actor.NewPID(p.self.Address, caller)) || p.over {
		return
	}
	if len(p.callers) > 0 || p.state == "committing" {
		p.publish()
		return
	}
	p.cancel()
	p.end(messages.Image{}, messages.Errorf(messages.Canceled, "pull of %s: nobody waits for it any more", p.req.Ref))
}

func (p *pull) become(state string) {
	p.state, p.since = state, p.env.Clock.Now()
	p.env.Log.Info("pull", "image", p.req.Ref, "state", state)
	p.publish()
}

func (p *pull) publish() {
	if p.over {
		return
	}
	pr := messages.PullProgress{Ref: p.req.Ref, State: p.state, Since: p.since, Waiters: len(p.callers)}
	for _, l := range p.manifest.Layers {
		pr.Layers = append(pr.Layers, p.progress[l.Digest])
	}
	p.env.Index.putPull(p.name, pr)
	p.env.Index.putActor(messages.ActorInfo{Path: p.name, Kind: "pull", State: p.state, Since: p.since, Step: p.req.Ref})
}

func (p *pull) resolve() {
	p.become("resolving")
	req := p.req
	p.do(Job{Lane: LaneImage, Name: "resolve", Limit: p.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return p.env.Node.Images.Resolve(ctx, req)
	}, func(d done) {
		if p.over {
			return
		}
		if d.err != nil {
			p.end(messages.Image{}, fmt.Errorf("pull of %s: step resolve: %w", p.req.Ref, d.err))
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

// fetch asks for all layers at once; the worker pool bounds what runs.
func (p *pull) fetch() {
	for _, l := range p.manifest.Layers {
		p.progress[l.Digest] = messages.LayerProgress{Digest: l.Digest, Size: l.Size}
		p.missing[l.Digest] = l
	}
	p.become("fetching")
	if len(p.missing) == 0 {
		p.commit()
		return
	}
	for _, digest := range sortedKeys(p.missing) {
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
	if errors.Is(m.err, errLayerEnding) {
		p.after(p.env.Settings.RetryMin, func() {
			if !p.over {
				p.need(l)
			}
		})
		return
	}
	if m.err != nil {
		p.end(messages.Image{}, fmt.Errorf("pull of %s: step fetch %s: %w", p.req.Ref, m.digest, m.err))
		return
	}
	delete(p.missing, m.digest)
	pr := p.progress[m.digest]
	pr.Done = true
	if pr.Size > 0 {
		pr.Bytes = pr.Size
	}
	p.progress[m.digest] = pr
	p.publish()
	if len(p.missing) == 0 {
		p.commit()
	}
}

func (p *pull) commit() {
	p.become("committing")
	req, manifest := p.req, p.manifest
	p.do(Job{Lane: LaneImage, Name: "commit"}, func(ctx context.Context) (any, error) {
		return p.env.Node.Images.Commit(ctx, req, manifest)
	}, func(d done) {
		if d.err != nil {
			p.end(messages.Image{}, fmt.Errorf("pull of %s: step commit: %w", p.req.Ref, d.err))
			return
		}
		p.end(d.value.(messages.Image), nil)
	})
}

// end reports to images, which unlinks this pull and answers its callers.
func (p *pull) end(img messages.Image, err error) {
	if p.over {
		return
	}
	p.over = true
	for _, digest := range sortedKeys(p.missing) {
		p.env.send(p.env.images, layerUnwanted{digest: digest, by: p.self})
	}
	p.env.Index.dropPull(p.name)
	p.env.Log.Info("pull", "image", p.req.Ref, "state", "ended", "id", img.ID, "err", err)
	p.env.send(p.env.images, pullDone{key: p.pullKey, image: img, err: err, callers: p.callers})
	p.callers = nil
}

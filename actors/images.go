package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// images shares image work: one pull per (reference, namespace, credentials), one
// download per layer digest, and the published list of what the store holds.
type images struct {
	crew
	pulls  map[string]*actor.PID
	layers map[string]*actor.PID
	number int

	listing bool          // a look at the store is under way
	wanted  []func(error) // told after the next look that begins from now on
	told    []func(error) // told after the one under way

	callers waiters // who wait for a look at the store or for a removal
}

// pullDone is a pull's end; the callers are answered when the list is new, so
// that an image is listed as soon as its pull was answered.
type pullDone struct {
	key     string
	image   messages.Image
	err     error
	callers waiters
}

// needLayer asks for a layer on behalf of a pull.
type needLayer struct {
	req      backends.PullRequest
	manifest backends.Manifest
	layer    backends.Layer
}

// layerGone says that a layer's actor has nothing more to do.
type layerGone struct{ digest string }

func newImages(env *Env) actor.Producer {
	return func() actor.Actor {
		return &images{crew: crew{env: env}, pulls: map[string]*actor.PID{}, layers: map[string]*actor.PID{}}
	}
}

// Receive implements actor.Actor.
func (i *images) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		i.start(i.env, ctx, "images")
		i.env.Index.putActor(messages.ActorInfo{Path: ctx.Self().Id, Kind: "images", State: "ready", Since: i.env.Clock.Now()})
		// What an earlier instance was removing may be taken when that has ended.
		i.do(Job{Lane: LaneRead, Name: "begin"}, func(context.Context) (any, error) { return nil, nil }, func(done) { i.env.Index.offerImages() })
		i.round()
	case *actor.Stopping, *actor.Restarting:
		i.handled(m)
		settle(i.env, i.self, i)
	case *actor.Terminated:
		i.childEnded(m.Who)
	case *actor.Stopped:
		i.env.Index.dropActor(ctx.Self().Id)
	case messages.PullImage:
		i.onPull(ctx, m)
	case messages.RemoveImage:
		i.onRemove(ctx.Sender(), m.Ref)
	case messages.RefreshImages:
		sender := ctx.Sender()
		i.callers.join(sender)
		i.refresh(func(err error) { i.answer(sender, messages.None{}, err) })
	case messages.Abandon:
		for _, key := range sortedKeys(i.pulls) {
			ctx.Send(i.pulls[key], m)
		}
	case needLayer:
		i.onLayer(ctx, m)
	case layerUnwanted:
		if pid, ok := i.layers[m.digest]; ok {
			ctx.Send(pid, m)
		}
	case layerGone:
		if pid, ok := i.layers[m.digest]; ok {
			delete(i.layers, m.digest)
			ctx.Poison(pid)
		}
	case pullDone:
		i.onPullDone(ctx, m)
	default:
		if !i.handled(m) {
			unexpected(i.env, ctx, "ready")
		}
	}
}

func (i *images) debts() []*waiters { return []*waiters{&i.callers} }

func (i *images) answer(caller *actor.PID, value any, err error) {
	if i.callers.leave(caller) {
		i.env.reply(caller, value, err)
	}
}

// onPull joins the pull under way, or begins one.
func (i *images) onPull(ctx actor.Context, m messages.PullImage) {
	key := pullKey(m)
	pid, ok := i.pulls[key]
	if !ok {
		i.number++
		name := fmt.Sprintf("pull-%d", i.number)
		var err error
		if pid, err = ctx.SpawnNamed(i.env.Props(ctx.Self().Id+"/"+name, newPull(i.env, m)), name); err != nil {
			panic(err)
		}
		i.pulls[key] = pid
	}
	ctx.Forward(pid)
}

// pullKey: callers with other credentials are another pull, so that the
// registry decides what each may have; for another namespace another policy may
// decide. The key never leaves this process.
func pullKey(m messages.PullImage) string {
	key := []string{m.Ref, m.Namespace, m.Source}
	if m.Auth != nil {
		key = append(key, m.Auth.Username, m.Auth.Password, m.Auth.IdentityToken, m.Auth.RegistryToken)
	}
	return strings.Join(key, "\x00")
}

func (i *images) onPullDone(ctx actor.Context, m pullDone) {
	if pid, ok := i.pulls[m.key]; ok {
		delete(i.pulls, m.key)
		ctx.Poison(pid)
	}
	if m.err != nil {
		m.callers.answer(i.env, nil, m.err)
		return
	}
	i.callers = append(i.callers, m.callers...)
	i.refresh(func(error) {
		for _, caller := range m.callers {
			i.answer(caller, m.image.ID, nil)
		}
	})
}

// onLayer joins the download under way, or begins one.
func (i *images) onLayer(ctx actor.Context, m needLayer) {
	pid, ok := i.layers[m.layer.Digest]
	if !ok {
		name := "layer-" + strings.ReplaceAll(m.layer.Digest, ":", "-")
		var err error
		pid, err = ctx.SpawnNamed(i.env.Props(ctx.Self().Id+"/"+name, newLayer(i.env)), name)
		if errors.Is(err, actor.ErrNameExists) { // the last one of this name is just ending
			ctx.Send(ctx.Sender(), layerDone{digest: m.layer.Digest, err: errLayerEnding})
			return
		} else if err != nil {
			panic(err)
		}
		i.layers[m.layer.Digest] = pid
	}
	ctx.Forward(pid)
}

// childEnded: a pull or layer that was given up after panics. It has told those
// who waited; the next who asks begins anew.
func (i *images) childEnded(who *actor.PID) {
	for _, m := range []map[string]*actor.PID{i.pulls, i.layers} {
		for key, pid := range m {
			if pid.Id == who.Id {
				delete(m, key)
			}
		}
	}
}

// onRemove refuses an image in use: the kubelet collects only unused ones, and
// a container's root lies on its image's layers.
func (i *images) onRemove(sender *actor.PID, ref string) {
	i.callers.join(sender)
	i.refresh(func(err error) {
		img, ok := i.env.Index.Image(ref)
		switch {
		case err != nil:
			i.answer(sender, messages.None{}, err)
		case ok:
			i.remove(sender, ref, img.ID)
		default:
			i.removeUnlisted(sender, ref)
		}
	})
}

// removeUnlisted removes an image that is not listed because it is damaged.
func (i *images) removeUnlisted(sender *actor.PID, ref string) {
	i.do(Job{Lane: LaneRead, Name: "find " + ref, Limit: i.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		id, err := i.env.Node.Images.Unlisted(ctx, ref)
		if err == nil && id == "" {
			id, err = i.env.Node.Images.Unlisted(ctx, fullName(ref))
		}
		return id, err
	}, func(d done) {
		if id, _ := d.value.(string); d.err == nil && id != "" {
			i.remove(sender, ref, id)
			return
		}
		i.answer(sender, messages.None{}, d.err)
	})
}

func (i *images) remove(sender *actor.PID, ref, id string) {
	if user, free := i.env.Index.withdrawImage(id); !free {
		i.answer(sender, messages.None{}, messages.Errorf(messages.Precondition, "image %s is used by container %s: remove it first", ref, user))
		return
	}
	i.do(Job{Lane: LaneImage, Name: "remove " + id, Limit: i.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		return nil, i.env.Node.Images.Remove(ctx, id)
	}, func(d done) {
		i.env.Index.offerImages(id)
		i.refresh(func(error) { i.answer(sender, messages.None{}, d.err) })
	})
}

// --- the published list ---

type listing struct {
	images []messages.Image
	fs     messages.Filesystem
}

// round re-reads the store by the clock: podman may have changed it.
func (i *images) round() {
	i.refresh(func(error) {})
	i.after(i.env.Settings.RefreshEvery, i.round)
}

// refresh looks at the store and calls then when what is published is as new as
// this call. Calls during a look share the next one.
func (i *images) refresh(then func(error)) {
	i.wanted = append(i.wanted, then)
	if !i.listing {
		i.look()
	}
}

func (i *images) look() {
	i.listing, i.told, i.wanted = true, i.wanted, nil
	i.do(Job{Key: "images/list", Lane: LaneRead, Name: "list", Limit: i.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		list, err := i.env.Node.Images.List(ctx)
		if err != nil {
			return nil, err
		}
		fs, err := i.env.Node.Images.Usage(ctx)
		return listing{list, fs}, err
	}, func(d done) {
		i.listing = false
		if d.err != nil {
			i.env.Log.Warn("the image store could not be read", "err", d.err)
		} else {
			l := d.value.(listing)
			i.env.Index.putImages(l.images, l.fs)
		}
		told := i.told
		i.told = nil
		for _, f := range told {
			f(d.err)
		}
		if len(i.wanted) > 0 && !i.listing {
			i.look()
		}
	})
}

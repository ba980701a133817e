package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// checker reads the image store again when somebody asks, one check at a time,
// and pulls what was damaged if they want that:
//
//	idle → checking → listing → (repairing, image by image →) idle
//
// A check that nobody waits for any more ends. What it has put aside stays
// aside: the next pull of the image brings it.
type checker struct {
	crew
	state   string
	callers waiters // of the check under way
	repair  bool
	ended   bool // its callers have gone: its outcome is nobody's
	report  messages.CheckReport
	todo    []messages.DamagedImage
}

// checkProgress comes from the job.
type checkProgress struct{ done, total int }

func newChecker(env *Env) actor.Producer {
	return func() actor.Actor { return &checker{crew: crew{env: env}, state: "idle"} }
}

// Receive implements actor.Actor.
func (c *checker) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		c.start(c.env, ctx, "checker")
		c.become("idle")
	case *actor.Stopping, *actor.Restarting:
		c.handled(m)
		settle(c.env, c.self, c)
	case *actor.Stopped:
		c.env.Index.dropActor(ctx.Self().Id)
	case messages.CheckImages:
		c.callers.join(ctx.Sender())
		c.repair = c.repair || m.Repair
		if c.state == "idle" {
			c.check()
		}
	case messages.Abandon:
		if c.callers.leave(actor.NewPID(c.self.Address, m.Caller)) && len(c.callers) == 0 {
			c.ended = true
			c.cancel()
		}
	case checkProgress:
		if c.state == "checking" {
			c.show(fmt.Sprintf("layer %d of %d", m.done, m.total))
		}
	case messages.Reply:
		c.onReply(m)
	case *actor.DeadLetterResponse: // images is being started again
		c.onReply(messages.Reply{Err: messages.Errorf(messages.Unavailable, "the image store's actor is being started again: check once more")})
	default:
		if !c.handled(m) {
			unexpected(c.env, ctx, c.state)
		}
	}
}

func (c *checker) debts() []*waiters { return []*waiters{&c.callers} }

func (c *checker) become(state string) {
	if c.state != state {
		c.env.Log.Info("check of the image store", "from", c.state, "to", state)
	}
	c.state = state
	c.show("")
}

func (c *checker) show(step string) {
	c.env.Index.putActor(messages.ActorInfo{Path: c.self.Id, Kind: "checker", State: c.state, Since: c.env.Clock.Now(), Step: step})
}

func (c *checker) check() {
	c.report, c.todo, c.ended = messages.CheckReport{}, nil, false
	c.become("checking")
	env, self, last := c.env, c.self, c.env.Clock.Now()
	c.do(Job{Lane: LaneWalk, Name: "check"}, func(ctx context.Context) (any, error) {
		var report messages.CheckReport
		var err error
		report.Damage, err = env.Node.Images.Check(ctx, func(done, total int) {
			report.Layers = total
			if now := env.Clock.Now(); now.Sub(last) >= progressEvery {
				last = now
				env.send(self, checkProgress{done, total})
			}
		})
		return report, err
	}, c.checked)
}

func (c *checker) checked(d done) {
	switch found, _ := d.value.(messages.CheckReport); {
	case c.ended && len(c.callers) > 0: // they came while it was ending
		c.check()
	case c.ended:
		c.finish(nil)
	case d.err != nil:
		c.finish(fmt.Errorf("checking the image store (%d damages found until then, see the log): %w", len(found.Damage), d.err))
	default:
		c.report = found
		if len(found.Damage) == 0 {
			c.finish(nil)
			return
		}
		c.become("listing") // what was put aside is not listed any more when the caller is answered
		c.request(messages.RefreshImages{})
	}
}

func (c *checker) request(m any) { c.env.System.Root.RequestWithCustomSender(c.env.images, m, c.self) }

// onReply goes on when images has answered.
func (c *checker) onReply(m messages.Reply) {
	switch c.state {
	case "listing":
		if c.repair {
			c.todo = c.damagedImages()
			c.become("repairing")
		}
	case "repairing":
		c.repaired(m.Err)
	default:
		return // to an earlier instance
	}
	c.next()
}

func (c *checker) damagedImages() (all []messages.DamagedImage) {
	for _, d := range c.report.Damage {
		for _, image := range d.Images {
			if !slices.ContainsFunc(all, func(i messages.DamagedImage) bool { return i.ID == image.ID }) {
				all = append(all, image)
			}
		}
	}
	return all
}

// next pulls the next image, by the digest that brings this very one, with the
// node's own credentials.
func (c *checker) next() {
	for len(c.todo) > 0 && c.todo[0].Ref == "" {
		c.repaired(errors.New("it has no name that a registry knows"))
	}
	if len(c.todo) == 0 || c.ended {
		c.finish(nil)
		return
	}
	c.show(c.todo[0].Name)
	c.request(messages.PullImage{Ref: c.todo[0].Ref})
}

func (c *checker) repaired(err error) {
	r := messages.Repair{Image: c.todo[0]}
	if err != nil {
		r.Err = fmt.Sprintf("%v; an image that was loaded from a file must be loaded again", err)
	}
	c.report.Repairs, c.todo = append(c.report.Repairs, r), c.todo[1:]
}

func (c *checker) finish(err error) {
	c.repair = false
	report := c.report
	if c.become("idle"); err != nil {
		c.callers.answer(c.env, nil, err)
		return
	}
	c.callers.answer(c.env, report, nil)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/troupe-run/troupe/e2e/blackout"
)

// series is a row of cuts on one disk.
type series struct {
	*workshop
	*catalogue
	*options
	name    string
	machine *blackout.Machine
	images  map[string]presence
	known   map[string]bool // what was corrupt before
	ordinal func() int      // the number of the next cut, 0: enough
	tally   *tally
	pulling time.Duration // how long the pulls of a round take
}

// presence is what the host knows of an image in the machine's store.
type presence int

const (
	absent  presence = iota
	maybe            // a pull or a removal of it was under way at a cut
	certain          // a pull of it was answered
)

// cut is one, with what is needed to tell of it.
type cut struct {
	number   int
	seed     uint64
	plan     Plan
	survival blackout.Survival
	blocks   string
	phase    string
	sight    Sight
	began    time.Duration // when the machine began to pull, since its boot
	ended    time.Duration // when it had its last answer
}

// run makes cuts until there are enough, then sees that all can be had.
func (s *series) run(ctx context.Context) error {
	s.pulling = 6 * time.Second
	var before *cut
	for ctx.Err() == nil {
		if s.machine == nil {
			var err error
			if s.machine, err = s.newMachine(s.name); err != nil {
				return err
			}
			s.images, s.known = map[string]presence{}, map[string]bool{}
		}
		c := s.draw()
		err := s.machine.Run(ctx, c.plan, s.limit, func(line []byte) (blackout.Next, error) {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				return blackout.GoOn, fmt.Errorf("what the machine says (%q): %w", line, err)
			}
			s.see(c, &before, e)
			return next(e)
		})
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.fail(before, c, err)
			before = nil
			if c.number == 0 {
				return nil
			}
			continue
		}
		if c.number == 0 {
			return nil
		}
		random := rand.New(rand.NewPCG(c.seed, 2))
		survived, of := s.machine.Disk.On(c.survival, random)
		c.blocks = fmt.Sprintf("%s, %d of %d unflushed blocks survived", c.survival, survived, of)
		before = c
	}
	return ctx.Err()
}

// next is what becomes of the machine after it said something.
func next(e Event) (blackout.Next, error) {
	switch e.Kind {
	case "cut", "done":
		return blackout.Cut, nil
	case "failed":
		return blackout.GoOn, errors.New(e.Error)
	}
	return blackout.GoOn, nil
}

// draw draws what the coming round does. What was removed or not there is
// pulled, so that every round has pulls.
func (s *series) draw() *cut {
	c := &cut{number: s.ordinal()}
	c.plan = Plan{Registry: s.registry, StartLimit: s.limit / 2}
	if c.number == 0 {
		c.plan.Last, c.plan.Pull = true, s.refs
		return c
	}
	c.seed = s.seed + uint64(c.number)
	random := rand.New(rand.NewPCG(c.seed, 1))
	for _, i := range random.Perm(len(s.refs)) {
		ref := s.refs[i]
		switch {
		case s.images[ref] == absent:
			c.plan.Pull = append(c.plan.Pull, ref)
		case random.IntN(3) == 0:
			c.plan.Remove = append(c.plan.Remove, ref)
			c.plan.Pull = append(c.plan.Pull, ref)
		case random.IntN(3) == 0:
			c.plan.Remove = append(c.plan.Remove, ref)
		}
	}
	if len(c.plan.Pull) == 0 {
		c.plan.Remove, c.plan.Pull = s.refs[:3], s.refs[:3]
	}
	c.plan.Pull = c.plan.Pull[:min(len(c.plan.Pull), 2+random.IntN(4))]
	c.plan.Cut = moment(random, s.pulling)
	c.survival = []blackout.Survival{blackout.Lost, blackout.Kept, blackout.Mixed, blackout.Mixed}[random.IntN(4)]
	return c
}

// moment is anywhere in the pulls, or soon after something that has an edge.
func moment(random *rand.Rand, pulling time.Duration) Moment {
	ms := func(most int) time.Duration { return time.Duration(random.IntN(most)) * time.Millisecond }
	switch random.IntN(8) {
	case 0:
		return Moment{"blob", 1 + random.IntN(6), ms(100)}
	case 1:
		return Moment{"unpack", 1 + random.IntN(6), ms(200)}
	case 2, 3:
		return Moment{"layer", 1 + random.IntN(6), ms(100)}
	case 4:
		return Moment{"answer", 1, ms(50)}
	case 5:
		return Moment{"answer", 1 + random.IntN(4), ms(1500)}
	default:
		return Moment{"pull", 0, ms(int(pulling.Milliseconds()))}
	}
}

// see takes in what a machine says. The first it says is what the cut before left.
func (s *series) see(c *cut, before **cut, e Event) {
	switch e.Kind {
	case "found":
		if e.Stage != atBoot {
			s.judgeLast(e.Stage, e.Found)
		} else if *before != nil {
			s.judge(*before, e.Found)
			*before = nil
		}
	case "removing":
		s.images[e.Ref] = maybe
	case "pulling":
		if s.images[e.Ref] = maybe; c.began == 0 {
			c.began = e.After
		}
	case "removed":
		s.images[e.Ref] = absent
	case "answered":
		s.images[e.Ref] = certain
		c.ended = e.After
	case "saw":
		c.sight = *e.Saw
	case "cut":
		c.phase = phase(c.sight)
		s.pace(c, e.After)
	}
	if s.verbose {
		fmt.Printf("  %s %.3f s: %s %s %v\n", s.name, e.After.Seconds(), e.Kind, e.Ref, c.sight)
	}
}

// pace keeps up with how fast the machines are, so that the moments of the
// coming cuts lie in the pulls.
func (s *series) pace(c *cut, now time.Duration) {
	switch took := now - c.began; {
	case c.sight.Asked > 0 && c.sight.Answered == c.sight.Asked:
		s.pulling = c.ended - c.began
	case took > s.pulling:
		s.pulling = took * 3 / 2
	}
}

func phase(s Sight) string {
	switch {
	case s.Asked > 0 && s.Answered == s.Asked:
		return "answered"
	case s.Incomplete > 0:
		return "committing"
	case s.Staged > 0:
		return "unpacking"
	case s.Answered > 0:
		return "part answered"
	case s.Partial > 0:
		return "downloading"
	case s.Blobs > 0:
		return "between"
	default:
		return "resolving"
	}
}

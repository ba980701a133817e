package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/troupe-run/troupe/e2e/blackout"
)

// series is a row of ends of one node.
type series struct {
	*options
	*tally
	*world
	registry, image, other string
	machine                *blackout.Machine
}

// round is one end, with what is needed to tell of it.
type round struct {
	number   int
	seed     uint64
	plan     Plan
	survival blackout.Survival
	blocks   string
	cutAt    time.Duration
	phases   string
}

// run ends the node until it was enough, then looks a last time.
func (s *series) run(ctx context.Context) error {
	var last *round
	for n := 1; n <= s.rounds+1; n++ {
		r := s.draw(n)
		err := s.machine.Run(ctx, r.plan, s.limit, func(line []byte) (blackout.Next, error) {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				return blackout.GoOn, fmt.Errorf("what the machine says (%q): %w", line, err)
			}
			if s.verbose {
				e := e
				e.Found = nil
				fmt.Printf("  %.3f s: %+v\n", e.After.Seconds(), e)
			}
			return s.see(r, last, e)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("boot %d, seed %d: %w", n, r.seed, err), s.keepDisk(r))
		}
		random := rand.New(rand.NewPCG(r.seed, 2))
		survived, of := s.machine.Disk.On(r.survival, random)
		r.blocks = fmt.Sprintf("%s, %d of %d unflushed blocks survived", r.survival, survived, of)
		last = r
	}
	return nil
}

// draw draws how the coming boot ends. Two of three ends are without warning.
func (s *series) draw(n int) *round {
	r := &round{number: n, seed: s.seed + uint64(n), survival: blackout.Kept}
	random := rand.New(rand.NewPCG(r.seed, 1))
	r.plan = Plan{
		Image: s.image, Other: s.other, Attempts: s.next(), Seed: r.seed, Work: n <= s.rounds,
		End: []End{PowerCut, PowerCut, PowerCut, Reset, Reboot}[random.IntN(5)],
		// By calls, because time says little about a machine that others slow down.
		Answers: random.IntN(70), After: time.Duration(random.IntN(1500)) * time.Millisecond,
	}
	if n%3 == 0 || n > s.rounds { // it takes the most time of all
		r.plan.Fill = addresses
	} else {
		r.plan.Fill = 4
	}
	if r.plan.End == PowerCut {
		r.survival = []blackout.Survival{blackout.Lost, blackout.Kept, blackout.Mixed, blackout.Mixed}[random.IntN(4)]
	}
	return r
}

// see takes in what a machine says. What it finds first is what the boot before left.
func (s *series) see(r, last *round, e Event) (blackout.Next, error) {
	switch e.Kind {
	case "do", "did", "exited":
		s.note(e)
	case "found":
		s.found(last, e)
	case "full":
		for _, text := range e.List {
			s.problem(last, &s.leaked, "leaked", text)
		}
	case "tidy":
		for _, text := range e.List {
			s.problem(last, &s.leaked, "leaked", text)
		}
	case "cut":
		r.cutAt, r.phases = e.After, s.phases()
		if r.plan.End == PowerCut {
			return blackout.Cut, nil
		}
		return blackout.Ending, nil
	case "done":
		return blackout.Cut, nil
	case "failed":
		return blackout.GoOn, errors.New(e.Text)
	}
	return blackout.GoOn, nil
}

func (s *series) found(last *round, e Event) {
	if last == nil {
		return
	}
	if e.First {
		for _, p := range e.Found.Pods {
			if p.Ready {
				s.early++
			}
		}
		return
	}
	v := s.judge(last.plan.End, last.cutAt, e.Found)
	s.report(last, e, v)
	s.forget(e.Found)
}

// report prints one line for a round, and one for each thing that is wrong.
func (s *series) report(last *round, e Event, v verdict) {
	s.ends++
	s.pods += len(e.Found.Pods)
	s.containers += len(e.Found.Containers)
	s.codes += v.codes
	s.unknown += v.unknown
	s.aside += len(e.Found.Aside)
	result := "ok"
	if len(v.lost)+len(v.invented)+len(e.Found.Units) > 0 || e.Found.Check != "" {
		result = "FAIL"
	}
	fmt.Printf("%d, seed %d: %s %d ms after %d answers (%s); %s; the daemon answered %.1f s after the boot; listed: %d pods, %d containers, %d codes kept, %d unknown, %d put aside: %s\n",
		last.number, last.seed, last.plan.End, last.plan.After.Milliseconds(), last.plan.Answers, last.phases, last.blocks, e.Found.Booted, len(e.Found.Pods), len(e.Found.Containers), v.codes, v.unknown, len(e.Found.Aside), result)
	for _, text := range v.lost {
		s.problem(last, &s.lost, "lost", text)
	}
	for _, text := range v.invented {
		s.problem(last, &s.invented, "invented", text)
	}
	for _, text := range e.Found.Units {
		s.problem(last, &s.failed, "failed", text)
	}
	if e.Found.Check != "" {
		s.problem(last, &s.failed, "failed", "troupe check: "+e.Found.Check)
	}
}

func (s *series) problem(r *round, sum *int, kind, text string) {
	*sum++
	if r == nil { // at the first boot
		r = &round{}
	}
	fmt.Printf("FAIL %d, seed %d: %s: %s\n", r.number, r.seed, kind, text)
}

// keepDisk leaves the disk of a failure for a look at it (mount -o loop,ro).
func (s *series) keepDisk(r *round) error {
	path := fmt.Sprintf("%s/var-%d.raw", s.out, r.seed)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Printf("  its disk is %s\n", path)
	return s.machine.Disk.Dump(f)
}

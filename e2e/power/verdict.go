package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// tally is of all series.
type tally struct {
	mu                                               sync.Mutex
	cuts, corrupt, lost, failed, back, left, checked int
	phases                                           map[string]int
}

// judge compares what a machine finds at its boot with what it had been told.
func (s *series) judge(c *cut, f *Findings) {
	var wrong []string
	for _, x := range f.Corrupt {
		if !s.known[x] { // it stays until a pull repairs it, and is the fault of one cut
			wrong = append(wrong, "corrupt: "+x)
		}
		s.known[x] = true
	}
	if f.Check != "" {
		wrong = append(wrong, "troupe check: "+f.Check)
	}
	lost, back := 0, 0
	for _, ref := range s.refs {
		id, there := f.Images[ref]
		switch {
		case there && id != s.ids[ref]:
			wrong = append(wrong, fmt.Sprintf("corrupt: %s is image %s, pushed was %s", ref, id, s.ids[ref]))
		case !there && s.images[ref] == certain:
			lost++
			wrong = append(wrong, "lost: the pull of "+ref+" had been answered, and it is not there")
		case there && s.images[ref] == absent:
			back++ // its removal had been answered; a removal that is to be repeated does no harm
		}
		s.images[ref] = absent
		if there {
			s.images[ref] = certain
		}
	}
	result := "ok"
	if len(wrong) > 0 {
		result = "FAIL"
	}
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	s.tally.cuts++
	s.tally.phases[c.phase]++
	s.tally.lost += lost
	s.tally.back += back
	s.tally.left += len(f.Left)
	if f.Checked {
		s.tally.checked++
	}
	if len(wrong) > lost {
		s.tally.corrupt++
		s.keepDisk(c)
	}
	fmt.Printf("cut %d, seed %d, %s: %s (%v); %s; found %d images, %d layers, %d left over, %d cached, %d back: %s\n",
		c.number, c.seed, c.plan.Cut, c.phase, c.sight, c.blocks, len(f.Images), f.Layers, len(f.Left), len(f.Cached), back, result)
	for _, w := range wrong {
		fmt.Printf("FAIL cut %d, seed %d: %s\n", c.number, c.seed, w)
	}
	for _, l := range f.Left {
		fmt.Printf("  left over: %s\n", l)
	}
}

// judgeLast is asked when all has been pulled, and when all is removed.
func (s *series) judgeLast(stage string, f *Findings) {
	for _, ref := range s.refs {
		if id := f.Images[ref]; stage == allPulled && id != s.ids[ref] {
			s.problem("failed", "%s, %s: %s is %q, want %s", s.name, stage, ref, id, s.ids[ref])
		}
	}
	if stage == allRemoved && len(f.Images)+f.Layers > 0 {
		s.problem("failed", "%s, %s: %d images and %d layers stay", s.name, stage, len(f.Images), f.Layers)
	}
	for _, x := range append(f.Corrupt, f.Check) {
		if x != "" {
			s.problem("corrupt", "%s, %s: %s", s.name, stage, x)
		}
	}
	if len(f.Left)+len(f.Cached) > 0 {
		s.problem("failed", "%s, %s: left over: %s", s.name, stage, strings.Join(append(f.Left, f.Cached...), ", "))
	}
	fmt.Printf("%s, %s: %d images, %d layers, %d corrupt, %d left over, %d cached\n", s.name, stage, len(f.Images), f.Layers, len(f.Corrupt), len(f.Left), len(f.Cached))
}

// fail is for a machine on which Troupe did not do what it was asked to.
func (s *series) fail(before, c *cut, err error) {
	of := c
	if before != nil { // the cut before may well be why
		of = before
	}
	s.problem("failed", "cut %d, seed %d: the machine after it: %v", of.number, of.seed, err)
	s.keepDisk(of)
	s.machine = nil
}

func (s *series) problem(kind, format string, args ...any) {
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	if kind == "corrupt" {
		s.tally.corrupt++
	} else {
		s.tally.failed++
	}
	fmt.Printf("FAIL "+format+"\n", args...)
}

// keepDisk leaves the disk of a failure for a look at it (mount -o loop,ro).
func (s *series) keepDisk(c *cut) {
	path := fmt.Sprintf("%s/disk-%d.raw", s.out, c.seed)
	f, err := os.Create(path)
	if err == nil {
		err = s.machine.Disk.Dump(f)
		_ = f.Close() // the error of Dump is the one that tells
	}
	fmt.Printf("  its disk is %s (%v)\n", path, err)
}

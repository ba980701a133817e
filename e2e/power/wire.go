package main

import (
	"fmt"
	"time"
)

// What the host tells a machine after its boot, and what that tells the host,
// as lines of JSON over a serial port.

// Plan is what a machine shall do.
type Plan struct {
	Registry   string // host:port as the machine sees it
	Remove     []string
	Pull       []string
	Cut        Moment
	Last       bool // pull everything, then remove everything, and look for what is left each time
	StartLimit time.Duration
}

// Moment is when the machine asks for the cut: some time after something was
// seen for the nth time since the pulls began. If it does not come, the time
// counts from the last answer.
type Moment struct {
	After string // "pull", "blob", "unpack", "layer", "answer"
	Nth   int
	Delay time.Duration
}

func (m Moment) String() string {
	return fmt.Sprintf("%d ms after %s %d", m.Delay.Milliseconds(), m.After, m.Nth)
}

// Event is one line from a machine.
type Event struct {
	Kind  string    // "found", "removing", "removed", "pulling", "answered", "saw", "cut", "done", "failed"
	Ref   string    `json:",omitempty"`
	Error string    `json:",omitempty"`
	Stage string    `json:",omitempty"` // of Found
	Found *Findings `json:",omitempty"`
	Saw   *Sight    `json:",omitempty"`
	After time.Duration
}

// When a store is judged.
const (
	atBoot     = "at boot"
	allPulled  = "all pulled"
	allRemoved = "all removed"
)

// Sight is what the store looked like from outside during pulls.
type Sight struct {
	Partial, Blobs     int // of the blob cache
	Staged             int // layers being unpacked, or waiting for those below them
	Layers, Incomplete int // records of layers, and those of them marked incomplete
	Images             int
	Answered, Asked    int
}

func (s Sight) String() string {
	return fmt.Sprintf("%d of %d answered, %d partial and %d whole blobs, %d staged, %d layers (%d incomplete), %d images",
		s.Answered, s.Asked, s.Partial, s.Blobs, s.Staged, s.Layers, s.Incomplete, s.Images)
}

// Findings are what the judge has found in a store at rest.
type Findings struct {
	Images  map[string]string // by name: id
	Layers  int
	Corrupt []string // what is recorded but not whole
	Left    []string // what belongs to nothing
	Cached  []string // blobs and staged layers that wait for their pull to be repeated
	Check   string   // what `troupe check` said, if it found something
	Checked bool     // whether there is a `troupe check`
}

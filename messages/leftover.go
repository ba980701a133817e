package messages

import "time"

// FindLeftovers looks through the node, from the moment it is asked, for what
// no pod owns.
type FindLeftovers struct{ Call }

// Answers names what Ask gives for this request.
func (FindLeftovers) Answers([]Leftover) {}

// Leftover is something the node holds under our names, and no actor owns. It
// is removed once it has been seen without an owner for the grace.
type Leftover struct {
	Kind      string // process, mount, netns, …
	Name      string // path or address
	Pod       string // it was made for
	Container string // empty: the pod's own
	Since     time.Time
	Due       time.Time
	Action    string // what will be done, for people
	Err       string // why the last try failed
}

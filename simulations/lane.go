package simulations

import (
	"slices"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/supervisor"
)

// downloads is how many layers are fetched at a time: few, so that some wait.
const downloads = 3

// lanes are those of the daemon (supervisor/workers.go), but for the layers'.
func lanes() map[actors.Lane]*simLane {
	l := supervisor.DefaultLimits()
	return map[actors.Lane]*simLane{
		actors.LaneStart: {free: int(l.Start)}, actors.LaneStop: {free: int(l.Stop)}, actors.LaneProbe: {free: int(l.Probe)},
		actors.LaneImage: {free: int(l.Image)}, actors.LaneRead: {free: int(l.Read)}, actors.LaneWalk: {free: supervisor.Walks},
		actors.LaneLayer: {free: downloads},
	}
}

// simLane is a lane with a limit; the order is the real one's
// (supervisor/gate.go).
type simLane struct {
	free    int
	idle    int // jobs that have lent their place
	waiting []*simTicket
}

type simTicket struct {
	job *simJob
	p   *proc
	in  bool
}

// enter waits for a place, or for the end of the job's context; it says whether
// there is one to leave.
func (l *simLane) enter(p *proc, job *simJob) bool {
	if job.ctx.Err() != nil {
		return false
	}
	if l.free > 0 {
		l.free--
		return true
	}
	t := &simTicket{job: job, p: p}
	l.waiting = append(l.waiting, t)
	for !t.in && job.ctx.Err() == nil {
		p.park()
	}
	if !t.in {
		l.waiting = slices.DeleteFunc(l.waiting, func(o *simTicket) bool { return o == t })
	}
	return t.in
}

// most is how many may be under way: the limit, those that are idle, and those
// that went on when others had their place.
func (l *simLane) most() int { return downloads + l.idle + max(0, -l.free) }

func (l *simLane) leave() {
	l.free++
	for l.free > 0 && len(l.waiting) > 0 {
		next := 0
		for i, t := range l.waiting {
			if t.job.Rank > l.waiting[next].job.Rank {
				next = i
			}
		}
		t := l.waiting[next]
		l.waiting = slices.Delete(l.waiting, next, next+1)
		t.in = true
		l.free--
		t.p.wake()
	}
}

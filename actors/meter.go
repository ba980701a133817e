package actors

import (
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
)

const (
	// progressEvery bounds how often a download tells how far it is.
	progressEvery = 100 * time.Millisecond
	// lookEvery is how often a download that tells nothing is looked at.
	lookEvery = time.Second
	// rateWindow is over which time a rate is taken.
	rateWindow = 10 * time.Second
	// stalledAfter is how long no byte has come when a download counts as stalled.
	stalledAfter = 5 * time.Second
)

// meter measures how fast a number grows. What it starts from does not count:
// it was there before.
type meter struct{ samples []sample }

type sample struct {
	at time.Time
	n  int64
}

func (m *meter) add(at time.Time, n int64) {
	if len(m.samples) > 0 && n < m.samples[len(m.samples)-1].n { // it begins anew
		m.samples = nil
	}
	m.samples = append(m.samples, sample{at, n})
}

// rate is the growth in a second over the window that ends now. The oldest
// sample kept is the last from before the window.
func (m *meter) rate(now time.Time) int64 {
	for len(m.samples) > 1 && !m.samples[1].at.After(now.Add(-rateWindow)) {
		m.samples = m.samples[1:]
	}
	if len(m.samples) < 2 {
		return 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	over := max(min(now.Sub(first.at), rateWindow), progressEvery)
	return int64(float64(last.n-first.n) / over.Seconds())
}

// reporter takes what a worker tells of a fetch, counts its tries, and passes
// on what the actor must know soon. The rest is looked at when its time comes.
type reporter struct {
	env  *Env
	to   *actor.PID
	size int64 // of the blob; -1: not known

	mu   sync.Mutex
	last fetchReport
	told time.Time
}

// fetchReport is what a worker has told so far.
type fetchReport struct {
	backends.Progress // the latest
	from              *reporter
	begun, moved      time.Time // zero begun: it waits for its turn
	base              int64     // bytes that were there before; -1: not known yet
	tries             int
	trouble           string // the last
}

// begin says that the fetch has got its place.
func (r *reporter) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.env.Clock.Now()
	r.last = fetchReport{from: r, begun: now, moved: now, base: -1, tries: 1}
	r.tell(now)
}

// report is the backend's progress function; it may be called by several
// goroutines.
func (r *reporter) report(p backends.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.env.Clock.Now()
	// The same trouble told twice with nothing between is another try too.
	again := p.Trouble != "" && (p.Trouble != r.last.Trouble || p == r.last.Progress)
	if again {
		r.last.tries++
		r.last.trouble = p.Trouble
	}
	if r.last.base < 0 {
		r.last.base = p.Received
	}
	// What has come may be unpacked for long after a line went dead.
	unpacking := p.Received >= r.size && p.Unpacked != r.last.Unpacked
	if p.Received != r.last.Received || unpacking {
		r.last.moved = now
	}
	r.last.Progress = p
	if again || now.Sub(r.told) >= progressEvery {
		r.tell(now)
	}
}

func (r *reporter) tell(now time.Time) {
	r.told = now
	r.env.send(r.to, r.last)
}

func (r *reporter) latest() fetchReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

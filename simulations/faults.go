package simulations

import (
	"context"
	"errors"
	"time"

	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

// Faults says what may go wrong in a run, as chances per call or means between
// events. The zero value is a calm node. Recovery may be demanded from any
// combination of these: the disk that is full becomes free again, a call that
// hangs ends with its context, and what no record owns is the sweeper's.
type Faults struct {
	Before float64 // a call fails without effect
	After  float64 // a call fails although its effect is there: the interesting one
	Half   float64 // a call fails with half of its effect (a torn record, an address without a pod)
	Hang   float64 // a call does not return until its context ends
	Slow   float64 // a call takes seconds

	Only string // faults only in this backend ("Network"); empty: in all

	Panic float64 // an actor panics on a message, before or after it has dealt with it

	DaemonCrash  time.Duration // mean time between deaths of the daemon; 0: none
	MonitorCrash time.Duration // of the connection to the monitor and the monitor
	ProcessDeath time.Duration // of a container's process, by itself
	DiskFull     time.Duration // times at which the disk is full for a while
	Rot          time.Duration // of a layer in the image store; a check with repair follows
}

// Draw chooses a plan from a seed ("swarm testing": some runs are calm, some
// fail in one place only, some everywhere).
func Draw(w interface {
	IntN(int) int
	Float64() float64
},
) Faults {
	var f Faults
	pick := func(p *float64, most float64) {
		if w.IntN(2) == 0 {
			*p = w.Float64() * most
		}
	}
	pick(&f.Before, 0.03)
	pick(&f.After, 0.03)
	pick(&f.Half, 0.03)
	pick(&f.Hang, 0.003)
	pick(&f.Slow, 0.02)
	pick(&f.Panic, 0.01)
	if w.IntN(3) == 0 {
		f.Only = []string{"Network", "Rootfs", "Runtime", "Journal", "Namespaces", "Bundles", "Images", "Cgroups", "Files", "Volumes"}[w.IntN(10)]
	}
	every := func(p *time.Duration, least time.Duration) {
		if w.IntN(2) == 0 {
			*p = least + time.Duration(w.IntN(int(4*least)))
		}
	}
	every(&f.DaemonCrash, 20*time.Second)
	every(&f.MonitorCrash, 30*time.Second)
	every(&f.ProcessDeath, 2*time.Second)
	every(&f.DiskFull, time.Minute)
	every(&f.Rot, 20*time.Second)
	return f
}

var (
	errInjectedBefore = errors.New("injected: failed without effect")
	errInjectedAfter  = errors.New("injected: failed after the effect")
	errConnectionLost = errors.New("the connection to troupe was lost")
)

// stall is how long a download may stand still.
const stall = 5 * time.Minute

// latency is what a call takes when nothing is wrong (design.md §3).
var latency = map[string]time.Duration{
	"Network.Attach": 8 * time.Millisecond, "Network.Detach": 28 * time.Millisecond,
	"Runtime.Create": 8 * time.Millisecond, "Runtime.Start": time.Millisecond, "Runtime.Delete": 2 * time.Millisecond,
	"Runtime.Exec": 6 * time.Millisecond, "Images.Resolve": 20 * time.Millisecond, "Images.Fetch": 200 * time.Millisecond,
	"Images.Commit": 50 * time.Millisecond,
}

// hook is how the fake node takes virtual time and fails. Its calls run in
// procs only.
type hook struct{ w *World }

// Now implements fake.Hook.
func (h hook) Now() time.Time { return h.w.now }

// Before implements fake.Hook.
func (h hook) Before(ctx context.Context, c fake.Call) error {
	w, p := h.w, h.w.current
	if p == nil {
		return nil
	}
	usual, ok := latency[c.Backend+"."+c.Method]
	if !ok {
		usual = 300 * time.Microsecond
	}
	d := w.between(usual/2, usual*2)
	if h.faulty(c) {
		switch {
		case w.chance(w.plan.Before):
			w.count("before " + c.Backend + "." + c.Method)
			p.sleep(d)
			return errInjectedBefore
		case w.chance(w.plan.Hang):
			w.count("hang " + c.Backend + "." + c.Method)
			for until := w.now.Add(stall); ctx.Err() == nil; p.park() {
				if c.Backend == "Images" { // a download ends when nothing comes (pull_progress_timeout)
					p.sleep(until.Sub(w.now))
					return messages.Errorf(messages.Deadline, "injected: nothing came for %s", stall)
				}
			}
		case w.chance(w.plan.Slow):
			w.count("slow " + c.Backend + "." + c.Method)
			d = w.between(time.Second, 20*time.Second)
		}
	}
	p.sleep(d)
	return ctx.Err()
}

// faulty: looking at the node is not made to fail more often than acting on
// it; a connection is broken by crashes, not here.
func (h hook) faulty(c fake.Call) bool {
	switch c.Method {
	case "Connect", "Watch":
		return false
	}
	return h.w.plan.Only == "" || h.w.plan.Only == c.Backend
}

// Half implements fake.Hook.
func (h hook) Half(c fake.Call) bool {
	if h.w.current == nil || !h.faulty(c) || !h.w.chance(h.w.plan.Half) {
		return false
	}
	h.w.count("half " + c.Backend + "." + c.Method)
	return true
}

// After implements fake.Hook.
func (h hook) After(_ context.Context, c fake.Call) error {
	w := h.w
	if w.current == nil || !h.faulty(c) || !w.chance(w.plan.After) {
		return nil
	}
	w.count("after " + c.Backend + "." + c.Method)
	return errInjectedAfter
}

// Wait implements fake.Hook.
func (h hook) Wait(ctx context.Context, wt *fake.Waiter) error {
	p := h.w.current
	wt.OnWake(p.wake)
	defer wt.OnWake(nil)
	for !wt.Woken() {
		if err := ctx.Err(); err != nil {
			return err
		}
		until := wt.Until()
		switch {
		case until.IsZero():
			p.park()
		case !until.After(h.w.now):
			return nil
		default:
			p.sleep(until.Sub(h.w.now))
		}
	}
	return ctx.Err()
}

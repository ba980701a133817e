package simulations

import (
	"context"
	"errors"
	"time"

	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

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

// writing are the calls that need a disk that can be written to.
var writing = map[string]bool{
	"Journal.Save": true, "Journal.Remove": true, "Files.Make": true, "Files.Remove": true, "Bundles.Write": true, "Bundles.Remove": true,
	"Bundles.SetResources": true, "Rootfs.Mount": true, "Rootfs.Unmount": true, "Volumes.Mount": true, "Volumes.Unmount": true, "Volumes.Relabel": true,
	"Images.Fetch": true, "Images.FetchMore": true, "Images.Apply": true, "Images.Commit": true, "Images.Remove": true,
	"Network.Attach": true, "Network.Detach": true, "Runtime.Create": true,
}

// hook is how the fake node takes virtual time and fails. Its calls run in
// procs only.
type hook struct{ w *World }

// Now implements fake.Hook.
func (h hook) Now() time.Time { return h.w.wall() }

// Before implements fake.Hook.
func (h hook) Before(ctx context.Context, c fake.Call) error {
	w, p := h.w, h.w.current
	if p == nil {
		return nil
	}
	name := c.Backend + "." + c.Method
	usual, ok := latency[name]
	if !ok {
		usual = 300 * time.Microsecond
	}
	d := w.between(usual/2, usual*2)
	if !fair(c) {
		p.sleep(d)
		return ctx.Err()
	}
	h.kill(p, "before", c)
	if err := w.weather(p, ctx, c, name); err != nil {
		p.sleep(d)
		return err
	}
	if w.plan.Only == "" || w.plan.Only == c.Backend {
		switch {
		case w.chance(w.plan.Before):
			w.count("before " + name)
			p.sleep(d)
			return errInjectedBefore
		case w.chance(w.plan.Hang):
			w.count("hang " + name)
			if err := p.hang(ctx, c); err != nil {
				return err
			}
		case w.chance(w.plan.Stuck):
			w.count("stuck " + name)
			p.stick(w.between(10*time.Second, 4*time.Minute))
		case w.chance(w.plan.Slow):
			w.count("slow " + name)
			d = w.between(time.Second, 20*time.Second)
		}
	}
	p.sleep(d)
	return ctx.Err()
}

// fair: looking at the node is not made to fail more often than acting on it; a
// connection is broken by crashes, not here.
func fair(c fake.Call) bool { return c.Method != "Connect" && c.Method != "Watch" }

// usualCalls is how many times Before and After are called, together, for each
// pod of a run; mostKills is how often the daemon is killed in them at most.
const (
	usualCalls = 300
	mostKills  = 4
)

// kill ends the daemon or the monitor in the middle of a call. The rest of the
// call is not run: its daemon is dead, or it has lost its connection.
func (h hook) kill(p *proc, when string, c fake.Call) {
	w := h.w
	if p.life == nil {
		return
	}
	if w.kills < mostKills && w.chance(w.plan.KillDaemon/(w.pods*usualCalls)) {
		w.count("daemon killed " + when + " " + c.Backend + "." + c.Method)
		w.kills++
		w.killed = true
		for { // until the world ends this life, which is next
			p.park()
		}
	}
	if c.Backend == "Runtime" && w.chance(w.plan.KillMonitor/2) {
		w.count("monitor killed " + when + " Runtime." + c.Method)
		w.Node.CrashMonitor()
	}
}

// weather is what is wrong with the node for a while.
func (w *World) weather(p *proc, ctx context.Context, c fake.Call, name string) error {
	switch {
	case w.readOnly > 0 && writing[name]:
		return unix.EROFS
	case w.noFiles > 0 && w.chance(0.5):
		return unix.EMFILE
	case w.noMemory > 0 && w.chance(0.5):
		return unix.ENOMEM
	}
	for c.Backend == "Runtime" && w.silent > 0 && ctx.Err() == nil {
		p.sleep(500 * time.Millisecond)
	}
	return ctx.Err()
}

// hang waits for the end of the call's context, or until what it waits for is
// given up: a download when nothing comes (pull_progress_timeout), a walk over a
// volume, which has hours, when its file server answers again.
func (p *proc) hang(ctx context.Context, c fake.Call) error {
	for until := p.w.now.Add(stall); ctx.Err() == nil; p.sleep(until.Sub(p.w.now)) {
		if !p.w.now.Before(until) {
			return messages.Errorf(messages.Deadline, "injected: nothing came for %s", stall)
		}
	}
	return ctx.Err()
}

// stick waits, whatever happens to the call's context.
func (p *proc) stick(d time.Duration) {
	for until := p.w.now.Add(d); p.w.now.Before(until); {
		p.sleep(until.Sub(p.w.now))
	}
}

// Half implements fake.Hook.
func (h hook) Half(c fake.Call) bool {
	w := h.w
	if w.current == nil || w.plan.Only != "" && w.plan.Only != c.Backend || !w.chance(w.plan.Half) {
		return false
	}
	w.count("half " + c.Backend + "." + c.Method)
	return true
}

// After implements fake.Hook.
func (h hook) After(ctx context.Context, c fake.Call) error {
	w := h.w
	if w.current == nil || !fair(c) {
		return nil
	}
	h.kill(w.current, "after", c)
	if c.Backend == "Runtime" && w.Node.Down() {
		return messages.Errorf(messages.Unavailable, "the connection to the monitor was lost before its answer came")
	}
	if w.plan.Only != "" && w.plan.Only != c.Backend || !w.chance(w.plan.After) {
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
		case !until.After(h.Now()):
			return nil
		default:
			p.sleep(until.Sub(h.Now()))
		}
	}
	return ctx.Err()
}

package simulations

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/fake"
	"github.com/troupe-run/troupe/messages"
)

// fate brings the events that no call causes.
func (w *World) fate() {
	w.often(func() time.Duration { return w.plan.DaemonCrash }, w.Crash)
	w.often(func() time.Duration { return w.plan.MonitorCrash }, func() {
		w.count("monitor crash")
		w.Node.CrashMonitor()
	})
	w.often(func() time.Duration { return w.plan.KeeperCrash }, func() {
		w.count("monitor and keeper crash")
		w.Node.CrashKeeper()
	})
	w.often(func() time.Duration { return w.plan.BothCrash }, func() {
		w.count("monitor crash with the daemon")
		w.Node.CrashMonitor()
		w.Crash()
	})
	w.often(func() time.Duration { return w.plan.PowerCut }, w.cutPower)
	w.often(func() time.Duration { return w.plan.ProcessDeath }, func() { w.killSome(1) })
	w.often(func() time.Duration { return w.plan.MassDeath }, func() { w.killSome(1 << 20) })
	w.often(func() time.Duration { return w.plan.Undying }, w.undie)
	w.often(func() time.Duration { return w.plan.Pause }, func() {
		// All timers are late, and what others did meanwhile has been done.
		w.count("daemon stands still")
		w.now = w.now.Add(w.between(time.Second, 30*time.Second))
	})
	w.often(func() time.Duration { return w.plan.Rot }, w.rot)
	w.often(func() time.Duration { return w.plan.BadRecord }, w.spoilRecord)
	w.often(func() time.Duration { return w.plan.Litter }, func() {
		w.count("litter: " + w.Node.Litter(w.newID(), w.rng.IntN(fake.Litters)))
	})
	w.often(func() time.Duration { return w.plan.ClockStep }, w.stepClock)
	w.whiles()
}

// whiles are what does not work for a while.
func (w *World) whiles() {
	for _, one := range []struct {
		name       string
		mean       func() time.Duration
		begin, end func()
	}{
		{"disk full", func() time.Duration { return w.plan.DiskFull }, func() { w.Node.SetDisk(1) }, func() { w.Node.SetDisk(0) }},
		{"disk read-only", func() time.Duration { return w.plan.ReadOnly }, func() { w.readOnly++ }, func() { w.readOnly-- }},
		{"no descriptors", func() time.Duration { return w.plan.NoFiles }, func() { w.noFiles++ }, func() { w.noFiles-- }},
		{"no memory", func() time.Duration { return w.plan.NoMemory }, func() { w.noMemory++ }, func() { w.noMemory-- }},
		{"monitor is silent", func() time.Duration { return w.plan.MonitorHang }, func() { w.silent++ }, func() { w.silent-- }},
		{"zombies", func() time.Duration { return w.plan.Zombies }, func() { w.Node.Behind(true) }, func() { w.Node.Behind(false) }},
		{"network is down", func() time.Duration { return w.plan.NetworkDown }, func() {
			w.Node.SetNetwork(fmt.Errorf("injected: 10-net.conflist: unexpected end of JSON input"))
		}, func() { w.Node.SetNetwork(nil) }},
		{"registry is down", func() time.Duration { return w.plan.RegistryDown }, func() {
			w.Node.SetRegistry("registry.local", true)
		}, func() { w.Node.SetRegistry("registry.local", false) }},
	} {
		w.often(one.mean, func() {
			w.count(one.name)
			one.begin()
			w.after(nil, w.between(time.Second, 15*time.Second), one.end)
		})
	}
}

// often calls f at times whose mean distance is mean, while there is one.
func (w *World) often(mean func() time.Duration, f func()) {
	d := mean()
	if d == 0 {
		return
	}
	w.after(nil, w.between(d/2, d*3/2), func() {
		if mean() > 0 {
			f()
			w.often(mean, f)
		}
	})
}

// cutPower ends all at once; the node is up again with an empty /run.
func (w *World) cutPower() {
	w.count("power cut")
	w.Crash()
	w.boots++
	w.Node.PowerCut(func(backends.Key) fake.Loss { return fake.Loss(w.rng.IntN(3)) })
}

// spoilRecord puts something unreadable in a record's place while no daemon
// looks: it finds it when it starts.
func (w *World) spoilRecord() {
	w.whileDown(func() {
		keys := w.Node.Records()
		if len(keys) == 0 {
			return
		}
		k := keys[w.rng.IntN(len(keys))]
		switch w.rng.IntN(3) {
		case 0:
			w.count("record torn")
			w.Node.TearRecord(k)
		case 1:
			w.count("record foreign")
			w.Node.ReplaceRecord(k, []byte(`["not ours"]`))
		default:
			w.count("record newer")
			data, _ := json.Marshal(map[string]any{"version": 1 << 20, "plan": "nobody knows"})
			w.Node.ReplaceRecord(k, data)
		}
	})
}

// stepClock sets the node's clock. A daemon that lives on has a clock of its own
// in the kernel (Go's monotonic one); what it wrote down before is off for the
// next.
func (w *World) stepClock() {
	w.whileDown(func() {
		w.count("clock step")
		by := w.between(-24*time.Hour, 24*time.Hour)
		w.skew += by
		w.Node.StepClock(by)
	})
}

// killSome lets processes of containers die by themselves, at once.
func (w *World) killSome(most int) {
	running := w.Node.Living()
	for n := 0; n < most && len(running) > 0; n++ {
		i := w.rng.IntN(len(running))
		w.count("process death")
		w.Node.Kill(running[i], int32(w.rng.IntN(3)), w.chance(0.1))
		running = slices.Delete(running, i, i+1)
	}
}

// undie makes a process sleep in the kernel for a while.
func (w *World) undie() {
	if running := w.Node.Living(); len(running) > 0 {
		w.count("process does not die")
		w.Node.Undying(running[w.rng.IntN(len(running))], w.wall().Add(w.between(time.Second, 2*time.Minute)))
	}
}

// rot damages a layer that images may share, and asks for a repair until all is
// well: containers that have the layer keep it.
func (w *World) rot() {
	layers := []string{"base", "app-0", "app-1", "app-2", "app-3", "app-4"}
	w.count("rot")
	w.Node.SpoilLayer(layers[w.rng.IntN(len(layers))])
	w.spawn(nil, "repair", func(p *proc) {
		for {
			r := w.insist(p, 10*time.Minute, func() any { return messages.CheckImages{Repair: true} }).(messages.CheckReport)
			if !slices.ContainsFunc(r.Repairs, func(one messages.Repair) bool { return one.Err != "" }) {
				return
			}
			p.sleep(w.between(time.Second, 5*time.Second))
		}
	}, nil)
}

package stats

import (
	"sync"
	"time"

	"github.com/troupe-run/troupe/messages"
)

const (
	// shortest is the least time between two measurements that a rate is made
	// from: the clock ticks of a CPU's accounting would show in a shorter one.
	shortest = 500 * time.Millisecond
	// young is how long after its start a container's whole life is a sample
	// window: so the first answer about a new container has a rate too.
	young = time.Minute
	// forgotten is after how long what nobody asks about any more is dropped.
	forgotten = 10 * time.Minute
)

// keep is what is remembered of containers and pods between two calls: a few
// numbers each. It is tidied by the calls themselves; there is no timer.
type keep struct {
	period time.Duration // how long a measurement is an answer; 0: never

	mu    sync.Mutex
	of    map[string]*kept // by id of container or pod
	swept time.Time
}

type kept struct {
	asked time.Time
	place *place

	base struct { // what the next rate counts from
		at   time.Time
		used uint64
	}
	rate     messages.Amount
	hugeMost map[string]uint64

	usage   messages.Usage
	whole   bool
	network messages.NetworkUsage
}

// get gives what is kept of an id, new if there was nothing. The caller holds mu.
func (k *keep) get(id string, now time.Time) *kept {
	if k.of == nil {
		k.of = map[string]*kept{}
	}
	if now.Sub(k.swept) > forgotten/10 {
		k.swept = now
		for id, one := range k.of {
			if now.Sub(one.asked) > forgotten {
				delete(k.of, id)
			}
		}
	}
	one := k.of[id]
	if one == nil {
		one = &kept{}
		k.of[id] = one
	}
	one.asked = now
	return one
}

func (k *keep) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.of, id)
}

// place is where a container's cgroup was found; it never moves.
func (k *keep) place(id string, now time.Time) (place, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one := k.get(id, now); one.place != nil {
		return *one.place, true
	}
	return place{}, false
}

func (k *keep) putPlace(id string, p place, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.get(id, now).place = &p
}

// usage is a measurement that is young enough to be an answer.
func (k *keep) usage(id string, whole bool, now time.Time) (messages.Usage, bool) {
	if k.period <= 0 {
		return messages.Usage{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	one := k.get(id, now)
	if one.usage.At.IsZero() || now.Sub(one.usage.At) >= k.period || (whole && !one.whole) {
		return messages.Usage{}, false
	}
	u := one.usage
	u.Kept = true
	return u, true
}

// put adds what follows from earlier measurements, and keeps this one.
func (k *keep) put(id string, u messages.Usage, whole bool, started time.Time) messages.Usage {
	k.mu.Lock()
	defer k.mu.Unlock()
	one := k.get(id, u.At)
	u.CPU.NanoCores = one.nanoCores(u.CPU.Time, u.At, started)
	for i := range u.HugePages {
		h := &u.HugePages[i]
		if one.hugeMost == nil {
			one.hugeMost = map[string]uint64{}
		}
		h.Max = max(h.Max, one.hugeMost[h.Size])
		one.hugeMost[h.Size] = h.Max
	}
	if k.period > 0 {
		one.usage, one.whole = u, whole
	}
	return u
}

// nanoCores is the rate since an earlier measurement. Who asks again at once
// gets the rate of a moment ago: between two callers that do not know of each
// other there may be no time at all.
func (one *kept) nanoCores(used messages.Amount, now, started time.Time) messages.Amount {
	if !used.Known {
		return messages.Amount{}
	}
	base := one.base
	first := base.at.IsZero()
	if first && !started.IsZero() && now.Sub(started) < young {
		base.at, base.used = started, 0
		one.base = base // for who asks too soon, and then again
		first = false
	}
	if base.used > used.N {
		base.at = time.Time{} // counted anew: another cgroup of that name
	}
	between := now.Sub(base.at)
	if !base.at.IsZero() && between >= shortest {
		one.rate = messages.Measured(uint64(float64(used.N-base.used) / between.Seconds()))
	}
	if first || base.at.IsZero() || between >= shortest {
		one.base.at, one.base.used = now, used.N
	}
	return one.rate
}

func (k *keep) network(id string, now time.Time) (messages.NetworkUsage, bool) {
	if k.period <= 0 {
		return messages.NetworkUsage{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.get(id, now).network
	if n.At.IsZero() || now.Sub(n.At) >= k.period {
		return messages.NetworkUsage{}, false
	}
	n.Kept = true
	return n, true
}

func (k *keep) putNetwork(id string, n messages.NetworkUsage) messages.NetworkUsage {
	if k.period > 0 {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.get(id, n.At).network = n
	}
	return n
}

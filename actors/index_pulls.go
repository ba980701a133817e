package actors

import (
	"slices"

	"github.com/troupe-run/troupe/messages"
)

// endedPulls is how many pulls are still shown after their end.
const endedPulls = 20

// pullUnderWay is a pull and the key by which callers join it.
type pullUnderWay struct {
	key string
	messages.PullProgress
}

func (x *Index) putPull(name, key string, p messages.PullProgress) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pulls[name] = pullUnderWay{key, p}
}

func (x *Index) dropPull(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.pulls, name)
}

// endPull puts a pull among those that have ended.
func (x *Index) endPull(name string, p messages.PullProgress) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.pulls, name)
	x.ended = append(x.ended[max(0, len(x.ended)-endedPulls+1):len(x.ended):len(x.ended)], p)
}

// Pulls implements messages.View.
func (x *Index) Pulls() []messages.PullProgress {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []messages.PullProgress
	for _, k := range sortedKeys(x.pulls) {
		all = append(all, x.pulls[k].PullProgress)
	}
	slices.SortStableFunc(all, func(a, b messages.PullProgress) int { return a.Begun.Compare(b.Begun) })
	return all
}

// EndedPulls implements messages.View.
func (x *Index) EndedPulls() []messages.PullProgress {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.ended)
}

// PullFor finds the pull that a request began or joined.
func (x *Index) PullFor(m messages.PullImage) (messages.PullProgress, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	key := pullKey(m)
	for _, p := range x.pulls {
		if p.key == key {
			return p.PullProgress, true
		}
	}
	return messages.PullProgress{}, false
}

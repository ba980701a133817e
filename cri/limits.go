package cri

import "github.com/troupe-run/troupe/messages"

// lane is a class of RPCs with a limit of its own, so that no class can keep
// another out: a node that is busy creating still answers lists, and a stop
// gets in however many creates and probes there are.
type lane int

const (
	reads   lane = iota // answered from published snapshots
	work                // run, create, start
	stops               // stop and remove
	execs               // ExecSync: probes
	images              // may have to read the image store, which another tool can lock
	pulls               // they have no deadline and may last for hours
	watches             // streams without an end
	laneCount
)

var laneNames = [laneCount]string{"read", "work", "stop", "exec", "image", "pull", "event stream"}

// Limits are how many RPCs of each class may be under way at once; one more is
// refused with ResourceExhausted, not queued, for a queue here would only hide
// it from the node. The defaults are far above what a kubelet with 1,000 pods
// asks at once; they bound memory against a client that went wild.
type Limits struct {
	Reads   int // 512
	Work    int // 2048
	Stops   int // 2048
	Execs   int // 1024
	Images  int // 512
	Pulls   int // 512
	Watches int // 32
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		limit *int
		value int
	}{{&l.Reads, 512}, {&l.Work, 2048}, {&l.Stops, 2048}, {&l.Execs, 1024}, {&l.Images, 512}, {&l.Pulls, 512}, {&l.Watches, 32}} {
		if *d.limit <= 0 {
			*d.limit = d.value
		}
	}
	return l
}

// lanes holds a slot per RPC under way.
type lanes [laneCount]chan struct{}

func newLanes(l Limits) (all lanes) {
	for i, limit := range []int{reads: l.Reads, work: l.Work, stops: l.Stops, execs: l.Execs, images: l.Images, pulls: l.Pulls, watches: l.Watches} {
		all[i] = make(chan struct{}, limit)
	}
	return all
}

// enter takes a slot or refuses; leave gives it back.
func (ls *lanes) enter(l lane) (leave func(), err error) {
	select {
	case ls[l] <- struct{}{}:
		return func() { <-ls[l] }, nil
	default:
		return nil, messages.Errorf(messages.Busy, "%d %s requests are under way, which is the limit; try again later", cap(ls[l]), laneNames[l])
	}
}

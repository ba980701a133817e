package fake

import (
	"context"

	"github.com/troupe-run/troupe/messages"
)

// connection is one daemon's connection to the monitor.
type connection struct {
	waiter Waiter
	facts  []messages.ProcessState
	lost   bool
}

// Connect starts the monitor if need be, tells all states, and then each exit
// until ctx ends, the monitor dies, or another daemon connects.
func (b runtimeBackend) Connect(ctx context.Context, fact func(messages.ProcessState), ready func()) error {
	n, c := b.n, &connection{}
	err := n.call(ctx, Call{Backend: "Runtime", Method: "Connect"}, func() error {
		n.startMonitor()
		for _, id := range sorted(n.runtime.processes) {
			if p := n.runtime.processes[id]; !p.half {
				c.facts = append(c.facts, p.seen())
			}
		}
		n.runtime.disconnect()
		n.runtime.connection = c
		return nil
	})
	defer n.change(func() {
		if n.runtime.connection == c {
			n.runtime.connection = nil
		}
	})
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		told, lost := n.news(c)
		if lost {
			return messages.Errorf(messages.Unavailable, "the connection to the monitor ended")
		}
		for _, st := range told {
			fact(st)
		}
		if first {
			ready()
		}
		if len(told) > 0 {
			continue // more may have happened meanwhile
		}
		if err := n.hook.Wait(ctx, &c.waiter); err != nil {
			return err
		}
	}
}

// news takes what is to be told. What the monitor had not yet told when it
// died is lost here and found by State.
func (n *Node) news(c *connection) (told []messages.ProcessState, lost bool) {
	n.change(func() {
		if c.lost {
			lost = true
			return
		}
		told, c.facts = c.facts, nil
		c.waiter.rest(n.nextEnding())
	})
	return told, lost
}

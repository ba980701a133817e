package supervisor

import (
	"context"
	"fmt"
	"sync"

	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/messages"
)

// queueLength is how many events a subscriber may be behind.
const queueLength = 1024

// Subscription is a stream of events. When Events is closed, Err says why.
type Subscription struct {
	c    chan messages.Event
	once sync.Once
	err  error
}

// Offer implements actors.Subscriber.
func (s *Subscription) Offer(e messages.Event) bool {
	select {
	case s.c <- e:
		return true
	default:
		return false
	}
}

// Close implements actors.Subscriber. Only the events actor calls it and
// Offer, one message at a time, so nothing is sent on the closed channel.
func (s *Subscription) Close(err error) {
	s.once.Do(func() { s.err = err; close(s.c) })
}

// Events are what happens from the subscription on; it is closed when the
// subscriber was too slow or troupe stops.
func (s *Subscription) Events() <-chan messages.Event { return s.c }

// Err is why Events was closed.
func (s *Subscription) Err() error { return s.err }

// Subscribe gives the events until ctx ends.
func (t *Tree) Subscribe(ctx context.Context) (*Subscription, error) {
	if t.closing.Load() {
		return nil, messages.Errorf(messages.Unavailable, "troupe is shutting down")
	}
	s := &Subscription{c: make(chan messages.Event, queueLength)}
	name := fmt.Sprintf("subscriber-%d", t.number.Add(1))
	t.system.Root.Send(t.events, actors.Subscribe{Name: name, To: s})
	context.AfterFunc(ctx, func() { t.system.Root.Send(t.events, actors.Unsubscribe{Name: name}) })
	return s, nil
}

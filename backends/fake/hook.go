package fake

import (
	"context"
	"strings"
	"sync"
	"time"
)

// Call names one call to a backend.
type Call struct{ Backend, Method, Pod, Container, Key string }

// String is the call as it stands in a transcript.
func (c Call) String() string {
	parts := []string{c.Backend + "." + c.Method}
	for _, id := range []string{c.Pod, c.Container} {
		if id != "" {
			parts = append(parts, id[:min(len(id), 12)])
		}
	}
	if c.Key != "" {
		parts = append(parts, c.Key)
	}
	return strings.Join(parts, " ")
}

// Hook is where time, waiting and faults come from.
//
// Before, After and Wait are called without any lock and may look at the node.
// Now and Half are called while the node is locked and must not.
type Hook interface {
	Now() time.Time
	// Before is called at the start of each call. It may wait. An error fails
	// the call without effect. Fetch is asked once for each piece of a blob, as
	// Fetch and then FetchMore; one that hangs should end with an error of kind
	// Deadline after a while, as the real store's does when nothing comes.
	Before(ctx context.Context, c Call) error
	// Half says whether the call fails with half of its effect done. It is
	// asked only when the call is about to have an effect that can be halved:
	// Pin and Unpin (one namespace of several), Attach and Detach (an address
	// without an interface), Make and Remove of files, Mount and Unmount (a
	// directory without a mount), Write (a torn config.json), Create (a cgroup
	// without a process), Delete (killed, not forgotten),
	// Fetch and FetchMore (a piece of a blob), Commit (layers without an
	// image), Remove of an image (its names are gone).
	Half(c Call) bool
	// After is called after the effect; an error fails the call although the
	// effect is there. It is not called when the call failed by itself.
	After(ctx context.Context, c Call) error
	// Wait blocks until ctx ends (and gives its error), w is woken, or
	// w.Until has come.
	Wait(ctx context.Context, w *Waiter) error
}

// Waiter is somebody who waits for something to happen on the node.
type Waiter struct {
	mu    sync.Mutex
	woken bool
	until time.Time
	call  func()
}

// Woken says whether there is something to see. It stays true until the one
// who waits has looked.
func (w *Waiter) Woken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.woken
}

// Until is when to stop waiting even if nothing happened; zero: never.
func (w *Waiter) Until() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

// OnWake has f called at each wake, and at once if w is awake; nil ends that.
// f may be called while the node is locked: it may note that somebody can go
// on, and must not call the node.
func (w *Waiter) OnWake(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.call = f
	if w.woken && f != nil {
		f()
	}
}

func (w *Waiter) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = true
	if w.call != nil {
		w.call()
	}
}

// rest is called by the one who waits, after looking and before waiting again.
func (w *Waiter) rest(until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken, w.until = false, until
}

// plain is the hook of ordinary tests: real time, no faults.
type plain struct{}

func (plain) Now() time.Time                           { return time.Now() }
func (plain) Before(ctx context.Context, _ Call) error { return ctx.Err() }
func (plain) Half(Call) bool                           { return false }
func (plain) After(context.Context, Call) error        { return nil }

func (plain) Wait(ctx context.Context, w *Waiter) error {
	woken := make(chan struct{}, 1)
	w.OnWake(func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	defer w.OnWake(nil)
	var due <-chan time.Time
	if until := w.Until(); !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-woken:
		return nil
	case <-due:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

//go:build linux && cgo

package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// frost is who is frozen, and for whom. It is held while anybody is frozen or
// thawed, so that a connection that ends meanwhile leaves nothing behind.
type frost struct {
	sync.Mutex
	by map[*container]frozen
}

type frozen struct {
	conn *conn
	stop func() bool // of the timer that thaws it
}

// handle does what only a connection knows: it is what a freeze hangs on.
func (c *conn) handle(ctx context.Context, f wire.Frame) (any, error) {
	if slices.Contains(wire.Answered, f.Op) { // of a request nobody knows there is no point
		failpoint.Hit("handle", f.Op, "before")
		defer failpoint.Hit("handle", f.Op, "after")
	}
	if f.Op == wire.OpFreeze {
		return with(f.Body, func(r wire.Freeze) (any, error) { return nil, c.m.freeze(ctx, c, r) })
	}
	return c.m.handle(ctx, f.Op, f.Body)
}

// freeze stops containers, all or none.
func (m *monitor) freeze(ctx context.Context, by *conn, r wire.Freeze) error {
	if r.Limit <= 0 {
		return failf(wire.Invalid, "freeze containers of pod %s: there is no limit of time", r.Pod)
	}
	m.frost.Lock()
	defer m.frost.Unlock()
	var done []*container
	err := func() error {
		for _, id := range r.Containers {
			c, err := m.mustFind(wire.Ref{Pod: r.Pod, Container: id})
			if err != nil {
				return err
			}
			if s := c.state().Status; s != wire.Running || c.cgroup == nil {
				return failf(wire.Precondition, "container %s is %s, not running: it cannot be paused", id, s)
			}
			done = append(done, c)
			if err := c.cgroup.Freeze(cgroups.Frozen); err != nil {
				return failf(wire.Internal, "pause container %s: %v", id, err)
			}
			if err := ctx.Err(); err != nil {
				return failf(wire.Canceled, "pause containers of pod %s: nobody waits for it any more", r.Pod)
			}
		}
		return nil
	}()
	if m.frost.by == nil {
		m.frost.by = map[*container]frozen{}
	}
	for _, c := range done {
		if old, again := m.frost.by[c]; again {
			old.stop()
		}
		m.frost.by[c] = frozen{conn: by, stop: time.AfterFunc(r.Limit, func() {
			c.log.Warn("a paused container goes on: the time for its checkpoint is over")
			m.frost.Lock()
			defer m.frost.Unlock()
			_ = m.thawOne(c) // which logs it
		}).Stop}
	}
	if err != nil {
		for _, c := range done {
			err = errors.Join(err, m.thawOne(c))
		}
	}
	return err
}

// thaw lets containers go on; those that are not frozen do already.
func (m *monitor) thaw(r wire.Freeze) error {
	m.frost.Lock()
	defer m.frost.Unlock()
	var errs []error
	for _, id := range r.Containers {
		if c := m.find(wire.Ref{Pod: r.Pod, Container: id}); c != nil {
			errs = append(errs, m.thawOne(c))
		}
	}
	return errors.Join(errs...)
}

// thawOf thaws what was frozen for a connection that has ended.
func (m *monitor) thawOf(by *conn) {
	m.frost.Lock()
	defer m.frost.Unlock()
	for c, f := range m.frost.by {
		if f.conn == by {
			c.log.Warn("a paused container goes on: the daemon that paused it has gone")
			_ = m.thawOne(c) // which logs it
		}
	}
}

// thawOne is called with the lock held. What fails is tried again.
func (m *monitor) thawOne(c *container) error {
	f, ours := m.frost.by[c]
	if !ours {
		return nil
	}
	f.stop()
	err := c.cgroup.Freeze(cgroups.Thawed)
	if _, gone := c.cgroup.GetFreezerState(); err == nil || gone != nil || m.find(c.ref) != c {
		delete(m.frost.by, c)
		return nil
	}
	c.log.Error("a paused container cannot be resumed and will be tried again", "err", err)
	f.stop = time.AfterFunc(time.Second, func() {
		m.frost.Lock()
		defer m.frost.Unlock()
		_ = m.thawOne(c)
	}).Stop
	m.frost.by[c] = f
	return failf(wire.Internal, "resume container %s: %v; this is tried again", c.ref.Key(), err)
}

// thawLeft lets a container go on that an earlier monitor left frozen.
func (c *container) thawLeft() {
	if c.cgroup == nil {
		return
	}
	if state, err := c.cgroup.GetFreezerState(); err != nil || state != cgroups.Frozen {
		return
	}
	c.log.Warn("a container that an earlier monitor paused goes on")
	if err := c.cgroup.Freeze(cgroups.Thawed); err != nil {
		c.log.Error("it cannot be resumed; write THAWED to its freezer.state, or 0 to its cgroup.freeze", "err", err)
	}
}

//go:build linux && cgo

package main

import (
	"container/list"
	"crypto/sha256"
	"errors"
	"reflect"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// profilesMax is how many profiles' programs are kept, 5 to 32 KiB each. A node
// has a handful; one that has more loses time, not correctness.
const profilesMax = 64

// profiles are the ready seccomp programs by the SHA-256 of the profile. They
// are written by the compiler only: no container's process gets to them.
type profiles struct {
	mu    sync.Mutex
	told  []configs.Seccomp // as libcontainer has them; see same
	known map[[sha256.Size]byte]*list.Element
	byUse *list.List // of *profile, the last used first
}

type profile struct {
	key     [sha256.Size]byte
	done    chan struct{} // closed when there is a program or an error
	program []byte
	err     error
}

func newProfiles() *profiles {
	return &profiles{known: map[[sha256.Size]byte]*list.Element{}, byUse: list.New()}
}

// get gives the program of a profile. One caller compiles it, others that come
// meanwhile wait for its result. A failure is told to them all and not kept.
func (c *profiles) get(data []byte, compile func([]byte) ([]byte, error)) ([]byte, error) {
	p, mine := c.find(sha256.Sum256(data))
	if !mine {
		<-p.done
		return p.program, p.err
	}
	p.err = errors.New("compiling the seccomp profile ended in a panic") // unless it did not
	defer func() {
		if p.err != nil {
			c.forget(p)
		}
		close(p.done)
	}()
	p.program, p.err = compile(data)
	return p.program, p.err
}

func (c *profiles) find(key [sha256.Size]byte) (p *profile, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.known[key]; e != nil {
		c.byUse.MoveToFront(e)
		return e.Value.(*profile), false
	}
	p = &profile{key: key, done: make(chan struct{})}
	c.known[key] = c.byUse.PushFront(p)
	if c.byUse.Len() > profilesMax {
		oldest := c.byUse.Back()
		delete(c.known, c.byUse.Remove(oldest).(*profile).key)
	}
	return p, true
}

func (c *profiles) forget(p *profile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.known[p.key]; e != nil && e.Value == p {
		c.byUse.Remove(e)
		delete(c.known, p.key)
	}
}

// same gives the profile that another container has already when it is equal:
// libcontainer keeps a container's configuration as long as there is the
// container, with every rule of its profile, and nobody changes those.
func (c *profiles) same(profile *configs.Seccomp) *configs.Seccomp {
	if profile == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.told {
		if reflect.DeepEqual(&c.told[i], profile) {
			own := c.told[i]
			return &own
		}
	}
	if len(c.told) >= profilesMax {
		c.told = nil // those of containers that live stay with them
	}
	c.told = append(c.told, *profile)
	return profile
}

// share does that for a container that was loaded.
func (c *profiles) share(lc *libcontainer.Container) {
	config := lc.Config()
	if config.Seccomp != nil {
		*config.Seccomp = *c.same(config.Seccomp)
	}
}

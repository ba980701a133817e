//go:build linux && cgo

package main

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends/monitor/wire"
)

// monitor is the table of containers and who is told about them.
type monitor struct {
	paths
	systemd   bool
	oomScore  int // for containers whose spec has none
	loop      *loop
	log       *slog.Logger
	quit      chan struct{} // closed when it may end
	children  children
	profiles  *profiles // compiled ones
	anterooms *anterooms
	frost     frost
	keeper    *keeper

	lockFile, socketFile *os.File
	socketFd             int // of socketFile; -1: not there yet

	// steps is held for reading by each request, and for writing by the end that
	// makes room for another monitor.
	steps sync.RWMutex

	mu         sync.Mutex
	ending     bool // takes no new containers
	makesRoom  bool // another monitor comes after this one's end
	quitting   bool
	containers map[string]*container

	// tell is held while states are collected for a new watcher and while an
	// exit is published, so that a watcher misses none.
	tell    sync.Mutex
	watcher *conn
}

func newMonitor(p paths, systemd bool, oomScore int, l *loop, log *slog.Logger) *monitor {
	return &monitor{
		paths: p, systemd: systemd, oomScore: oomScore, loop: l, log: log,
		quit: make(chan struct{}), containers: map[string]*container{},
		socketFd: -1, children: children{known: map[int]*child{}}, profiles: newProfiles(), anterooms: newAnterooms(p.dir), keeper: &keeper{log: log},
	}
}

func failf(kind, format string, args ...any) error {
	return &wire.Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// keyForm is what may be the name of a file and of a libcontainer container.
var keyForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,127}$`)

func checkRef(r wire.Ref) error {
	if !keyForm.MatchString(r.Pod) || !keyForm.MatchString(r.Key()) {
		return failf(wire.Invalid, "pod %q, container %q: not ids", r.Pod, r.Container)
	}
	return nil
}

// find gives the container or nil.
func (m *monitor) find(r wire.Ref) *container {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[r.Key()]
	if c == nil || c.ref != r {
		return nil
	}
	return c
}

// mustFind is for requests that make no sense without the container.
func (m *monitor) mustFind(r wire.Ref) (*container, error) {
	if err := checkRef(r); err != nil {
		return nil, err
	}
	if c := m.find(r); c != nil {
		return c, nil
	}
	return nil, failf(wire.NotFound, "container %s of pod %s is not known to the monitor", r.Key(), r.Pod)
}

// reserve gives the container of that name, made if need be.
func (m *monitor) reserve(r wire.Ref) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ending {
		return nil, failf(wire.Precondition, "the monitor is ending: no new containers")
	}
	c := m.containers[r.Key()]
	if c == nil {
		c = &container{
			m: m, ref: r, log: m.log.With("pod", r.Pod, "container", r.Container), pidfd: -1,
			op: make(chan struct{}, 1), over: make(chan struct{}),
		}
		m.containers[r.Key()] = c
	}
	if c.ref != r {
		return nil, failf(wire.Exists, "the name %s is held by a container of pod %s", r.Key(), c.ref.Pod)
	}
	return c, nil
}

// remove takes the container out of the table, if it is still the one in it.
func (m *monitor) remove(c *container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.ref.Key()] == c {
		delete(m.containers, c.ref.Key())
	}
}

func (m *monitor) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.containers)
}

func (m *monitor) all() []*container {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*container, 0, len(m.containers))
	for _, c := range m.containers {
		all = append(all, c)
	}
	return all
}

// states are those of all containers; ones that are just being made have none.
func (m *monitor) states() []wire.State {
	states := []wire.State{}
	for _, c := range m.all() {
		if s := c.state(); s.Status != wire.Gone {
			states = append(states, s)
		}
	}
	return states
}

// list is states and what is left of creates that did not succeed.
func (m *monitor) list() []wire.State {
	states := []wire.State{}
	for _, c := range m.all() {
		states = append(states, c.state())
	}
	return states
}

// watch makes w the one that is told about exits; whoever it was before is
// an older daemon's connection, and closed.
func (m *monitor) watch(w *conn, id uint64) {
	m.tell.Lock()
	defer m.tell.Unlock()
	if old := m.watcher; old != nil && old != w {
		m.log.Info("a new daemon takes over")
		old.close()
	}
	m.watcher = w
	w.answer(id, m.states(), nil)
}

// publish tells the watcher about an exit.
func (m *monitor) publish(s wire.State) {
	m.tell.Lock()
	defer m.tell.Unlock()
	if m.watcher != nil {
		m.watcher.event(wire.EventExit, s)
	}
}

// unwatch forgets a connection that has ended.
func (m *monitor) unwatch(w *conn) {
	m.tell.Lock()
	defer m.tell.Unlock()
	if m.watcher == w {
		m.watcher = nil
	}
}

// tryQuit says whether the monitor may end, and takes no container from then on.
func (m *monitor) tryQuit() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.containers) > 0 {
		return false
	}
	m.ending = true
	return true
}

// endSoon ends the monitor when the answer to who asked for it has gone out.
func (m *monitor) endSoon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.quitting {
		m.quitting = true
		time.AfterFunc(200*time.Millisecond, func() { close(m.quit) })
	}
}

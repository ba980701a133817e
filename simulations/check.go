package simulations

import (
	"maps"
	"slices"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The invariants are looked at every few turns, of what something has happened to
// since the last look: on the node, or in the actor that shows it. All containers
// are looked at now and then and at the end, for what changed otherwise.
const (
	checksAPod = 5 // looks while each pod has one turn
	wholeEvery = 50
)

func (w *World) check() {
	w.due = w.turns + max(1, int(w.pods)/checksAPod)
	if w.checks++; w.checks%wholeEvery == 0 {
		w.checkAll()
		return
	}
	changed := w.Node.Changed()
	w.checkNode()
	if !w.shows() {
		return
	}
	if w.pulled {
		w.checkPulls()
		w.pulled = false
	}
	for _, id := range changed {
		w.acted[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(w.acted)) {
		if c, err := w.life.env.Index.Container(id); err == nil && c.Listed {
			w.checkContainer(c)
		}
	}
	clear(w.acted)
}

func (w *World) checkAll() {
	w.checkNode()
	if !w.shows() {
		return
	}
	w.checkPulls()
	for _, c := range w.life.env.Index.Containers() {
		w.checkContainer(c)
	}
	clear(w.acted)
}

func (w *World) checkNode() {
	for _, bad := range w.Node.Invariants() {
		w.fail("invariant: %s", bad)
	}
}

// shows: there is a daemon that serves requests.
func (w *World) shows() bool { return !w.life.dead && w.life.loaded }

func (w *World) checkContainer(c *messages.ContainerSnapshot) {
	if c.CRIState() == runtime.ContainerState_CONTAINER_EXITED && c.Reason == "" && c.State != messages.ContainerRemoving {
		w.fail("container %s has exited without a reason", c.ID)
	}
	w.checkLimits(c)
	w.checkExit(c)
}

// checkLimits: what is shown of a container that nothing is being done to is in
// force on the node.
func (w *World) checkLimits(c *messages.ContainerSnapshot) {
	if c.State != messages.ContainerCreated && c.State != messages.ContainerRunning || c.Activity.Step != "" {
		return
	}
	if r := c.Config.GetLinux().GetResources(); !w.Node.Limited(c.Pod, c.ID, r) {
		w.fail("container %s is shown with resources it does not have: %v", c.ID, r)
	}
}

// checkExit: no exit is invented. A container shown as exited has a process that
// ended in that way, or one of which nobody can know how it ended; or none that
// ever ran its command.
func (w *World) checkExit(c *messages.ContainerSnapshot) {
	if c.CRIState() != runtime.ContainerState_CONTAINER_EXITED || c.State != messages.ContainerExited || c.Reason == "StartError" {
		return
	}
	if wrong := w.Node.Invented(c.ID, c.ExitCode, c.Reason == "Unknown", c.Reason == "OOMKilled"); wrong != "" {
		w.fail("container %s is shown as exited with code %d (%s), but %s", c.ID, c.ExitCode, c.Reason, wrong)
	}
}

// checkPulls: what is published of a pull is never less than nothing or more
// than there is.
func (w *World) checkPulls() {
	for _, p := range w.life.env.Index.Pulls() {
		for _, l := range p.Layers {
			if l.Received < 0 || l.Received > l.Size || l.Rate < 0 {
				w.fail("pull of %s: layer %s is shown with %d of %d bytes, %d B/s", p.Name(), l.Digest, l.Received, l.Size, l.Rate)
			}
		}
	}
}

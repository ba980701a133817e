package simulations

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// resize changes a container's resources, as an in-place resize does: until it
// is done or refused, perhaps with a deadline that is too short. Sometimes it
// asks for what this node cannot give.
func (k *pod) resize(id string) {
	w, p := k.w, k.p
	want := &runtime.LinuxContainerResources{CpuShares: int64(2 + w.rng.IntN(1000)), CpuPeriod: 100_000}
	if w.chance(0.5) {
		want.MemoryLimitInBytes = int64(1+w.rng.IntN(64)) << 20
	}
	if w.chance(0.1) {
		want.Unified = map[string]string{"memory.high": "1"} // it has cgroup v1
	}
	for range 1 + w.rng.IntN(3) {
		_, err := w.ask(p, messages.UpdateContainer{Pod: k.id, Container: id, Resources: want, Call: messages.Call{Deadline: w.deadline()}}, usualLimit)
		if err == nil {
			if want.Unified != nil {
				w.fail("container %s was given what this node does not have", id)
			}
			break
		}
		w.say(p.name, "resize: "+err.Error())
	}
	_, _ = w.ask(p, messages.UpdatePod{Pod: k.id, Resources: want}, usualLimit)
}

// deadline is one that a caller may set.
func (w *World) deadline() time.Time {
	if w.chance(0.5) {
		return time.Time{}
	}
	return w.wall().Add(w.between(time.Millisecond, 30*time.Second))
}

// checkpoint captures the pod or one container, perhaps with too little time.
func (k *pod) checkpoint(id string) {
	w, p := k.w, k.p
	w.seq++
	place := fmt.Sprintf("/checkpoints/%s-%d", p.name, w.seq)
	call := messages.Call{Deadline: w.deadline()}
	var req any = messages.CheckpointPod{Call: call, Pod: k.id, Dir: place, Containers: []string{id}}
	if w.chance(0.5) {
		req = messages.CheckpointContainer{Call: call, Pod: k.id, Container: id, Location: place}
	}
	life, sure := w.life, w.sure && !w.Node.Down()
	if _, err := w.ask(p, req, usualLimit); err != nil {
		w.say(p.name, "checkpoint: "+err.Error())
		// A resume may have been made to fail, or is still to come; see settle.
		if !sure || w.plan != (Faults{}) || errors.Is(err, errNoAnswer) {
			return
		}
	}
	if _, whole := req.(messages.CheckpointPod); whole && w.chance(0.5) {
		k.restore(id, place)
	}
	if w.life == life && !life.dead && slices.Contains(w.Node.Frozen(), id) {
		w.fail("container %s is paused after its checkpoint was answered", id)
	}
}

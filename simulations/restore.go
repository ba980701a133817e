package simulations

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restore makes another pod of a checkpoint, uses it a little and removes it.
// With an error there is nothing left of it.
func (k *pod) restore(id, place string) {
	w, p := k.w, k.p
	c, err := w.life.env.Index.Container(id)
	if err != nil {
		return
	}
	w.seq++
	conf := k.config()
	conf.Metadata.Name = fmt.Sprintf("restored-%d", w.seq)
	conf.Metadata.Uid = conf.Metadata.Name
	life, until := w.life, w.now.Add(w.between(time.Second, 40*time.Second))
	v, err := w.ask(p, messages.RestorePod{
		Call: messages.Call{Deadline: until.Add(w.skew)}, Dir: place, Handler: "libcontainer", Config: conf, Containers: []*runtime.ContainerConfig{c.Config},
	}, 4*time.Minute)
	made, _ := v.(messages.RestoredPod)
	if err != nil {
		w.say(p.name, "restore: "+err.Error())
		p.sleep(max(until.Sub(w.now), 0) + time.Minute) // its answer may be what was lost
		w.insist(p, usualLimit, func() any { return k.removalOf(conf) })
		return
	}
	if w.life == life && !life.dead {
		for _, one := range made.Containers {
			// One whose process has died since was created all the same.
			if c, err := life.env.Index.Container(one); err != nil || (c.State != messages.ContainerCreated && c.State != messages.ContainerExited) {
				w.fail("container %s of the restored pod %s is not created", one, made.Pod)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(made.Containers)) {
		_, _ = w.ask(p, messages.StartContainer{Pod: made.Pod, Container: made.Containers[name]}, usualLimit)
		w.doomed[made.Containers[name]] = true
	}
	w.insist(p, usualLimit, func() any { return k.removalOf(conf) })
}

// removalOf removes whatever pod has the name: the answer of a restore can be
// lost.
func (k *pod) removalOf(conf *runtime.PodSandboxConfig) any {
	for _, s := range k.w.life.env.Index.Pods() {
		if s.Config.GetMetadata().GetName() == conf.Metadata.Name {
			for _, c := range k.w.life.env.Index.Containers() {
				if c.Pod == s.ID {
					k.w.doomed[c.ID] = true
				}
			}
			return messages.RemovePod{Pod: s.ID}
		}
	}
	return messages.RemovePod{Pod: "none"}
}

package main

import (
	"fmt"
	"slices"
	"time"
)

// moment is how long before the end something must have been answered to be
// sure to be on the disk. Troupe syncs its records 100 ms after they were
// written, without anybody waiting; the rest is for the syncs themselves, by
// an emulated machine.
const moment = 3 * time.Second

// verdict is of one look after a boot.
type verdict struct {
	lost, invented []string
	codes, unknown int
}

// judge compares what a node shows after a boot with what it had answered
// before. Whatever was answered a moment before the end must be there; what
// was under way may be, or not; nothing else may be there.
func (w *world) judge(end End, cutAt time.Duration, f *Found) verdict {
	j := &judging{end: end, cutAt: cutAt, listed: map[string]string{}}
	for _, p := range f.Pods {
		k := key(p.Name, p.Attempt)
		known := w.podsBy[k]
		if j.listed[k] != "" {
			j.invents("pod %s is listed twice", k)
		}
		j.listed[k] = p.ID
		j.pod(k, known, p)
	}
	shown := map[string]Container{} // by pod/attempt/name
	for _, c := range f.Containers {
		at := slices.IndexFunc(f.Pods, func(p Pod) bool { return p.ID == c.PodID })
		if at < 0 {
			j.invents("container %s is of pod %s, which is not listed", c.Name, c.PodID)
			continue
		}
		k := key(f.Pods[at].Name, f.Pods[at].Attempt)
		if _, twice := shown[k+"/"+c.Name]; twice {
			j.invents("container %s/%s is listed twice", k, c.Name)
		}
		shown[k+"/"+c.Name] = c
		if p := w.podsBy[k]; p != nil {
			j.container(k, p, p.containers[c.Name], c)
		}
	}
	for k, p := range w.podsBy {
		if j.sure(p.run) && p.remove.asked == 0 && j.listed[k] == "" {
			j.loses("pod %s had been answered %.1f s before the end and is not listed", k, (cutAt - p.run.answered).Seconds())
		}
		for name, c := range p.containers {
			if _, there := shown[k+"/"+name]; j.sure(c.create) && c.remove.asked == 0 && p.remove.asked == 0 && !there {
				j.loses("container %s/%s had been answered %.1f s before the end and is not listed", k, name, (cutAt - c.create.answered).Seconds())
			}
		}
	}
	for name, c := range w.images {
		if c.answered > 0 && !slices.Contains(f.Images, name) { // synced before it is answered
			j.loses("the pull of %s had been answered and it is not there", name)
		}
	}
	return j.verdict
}

type judging struct {
	verdict
	end    End
	cutAt  time.Duration
	listed map[string]string // ids of pods
}

func (j *judging) loses(format string, args ...any) {
	j.lost = append(j.lost, fmt.Sprintf(format, args...))
}

func (j *judging) invents(format string, args ...any) {
	j.invented = append(j.invented, fmt.Sprintf(format, args...))
}

// sure says whether what was answered must be on the disk.
func (j *judging) sure(c call) bool { return j.sureSince(c.answered) }

func (j *judging) sureSince(at time.Duration) bool {
	return at > 0 && (j.end == Reboot || j.cutAt-at >= moment)
}

func (j *judging) pod(k string, known *pod, p Pod) {
	switch {
	case known == nil || known.run.asked == 0:
		j.invents("pod %s was never asked for", k)
	case j.sure(known.remove):
		j.invents("pod %s had been removed %.1f s before the end and is listed", k, (j.cutAt - known.remove.answered).Seconds())
	case known.id != "" && known.id != p.ID:
		j.invents("pod %s had the id %s and has %s", k, known.id, p.ID)
	case known.created != 0 && known.created != p.Created:
		j.invents("pod %s was created at %d and is shown as of %d", k, known.created, p.Created)
	case p.Ready:
		j.invents("pod %s is shown ready", k)
	}
}

func (j *judging) container(k string, p *pod, known *container, c Container) {
	name := k + "/" + c.Name
	state := fmt.Sprintf("%s, code %d, reason %q, message %q, started %d, finished %d", c.State, c.Code, c.Reason, c.Message, c.Started, c.Finished)
	switch {
	case known == nil:
		j.invents("container %s was never asked for", name)
		return
	case j.sure(known.remove) || j.sure(p.remove):
		j.invents("container %s had been removed before the end and is listed", name)
	case known.id != "" && known.id != c.ID:
		j.invents("container %s had the id %s and has %s", name, known.id, c.ID)
	case known.created != 0 && known.created != c.Created:
		j.invents("container %s was created at %d and is shown as of %d", name, known.created, c.Created)
	case c.State != "CONTAINER_EXITED":
		j.invents("container %s is shown as %s", name, state)
	case c.Finished == 0 || c.Finished < c.Started:
		j.invents("container %s: %s", name, state)
	}
	j.exit(name, state, p, known, c)
}

// exit judges an exit code. Unknown is true of whatever was not seen to end.
func (j *judging) exit(name, state string, p *pod, known *container, c Container) {
	if c.Reason == "Unknown" && c.Code == -1 {
		j.unknown++
		if j.sureSince(known.seen) {
			j.loses("container %s had ended with %d, which was shown %.1f s before the end: now it is %s", name, known.code, (j.cutAt - known.seen).Seconds(), state)
		}
		return
	}
	possible := []int32{}
	switch {
	case known.seen > 0:
		possible = append(possible, known.code)
	case known.start.asked > 0 && known.ends != 0:
		possible = append(possible, known.ends)
	}
	stopped := known.stop.asked > 0 || p.stop.asked > 0 || p.remove.asked > 0 || j.end == Reboot
	if known.seen == 0 && stopped { // also one that waits to be started can be killed
		possible = append(possible, 137, 143)
	}
	if !slices.Contains(possible, c.Code) || c.Reason != "Error" {
		j.invents("container %s: %s; it can only have ended with %v", name, state, possible)
		return
	}
	j.codes++
}

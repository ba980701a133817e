package simulations

import (
	"errors"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pending is a request of the workload: the reply process behind it.
type pending struct {
	w     *World
	name  string
	proc  *proc
	done  bool
	value any
	err   error
}

// SendUserMessage implements actor.Process.
func (q *pending) SendUserMessage(_ *actor.PID, message any) {
	r, ok := actor.UnwrapEnvelopeMessage(message).(messages.Reply)
	if !ok {
		r = messages.Reply{Err: errDeadLetter}
	}
	if q.done {
		q.w.fail("%s was answered twice", q.name)
		return
	}
	q.answer(r.Value, r.Err)
}

// SendSystemMessage implements actor.Process.
func (*pending) SendSystemMessage(*actor.PID, any) {}

// Stop implements actor.Process.
func (*pending) Stop(*actor.PID) {}

func (q *pending) answer(value any, err error) {
	if q.done {
		return
	}
	q.done, q.value, q.err = true, value, err
	delete(q.w.pending, q.name)
	q.proc.wake()
}

var (
	errNoAnswer = errors.New("no answer in time")
	// errDeadLetter is what the gateway makes of one (supervisor/ask.go): whom
	// it was for has ended, the whole daemon perhaps.
	errDeadLetter = messages.Errorf(messages.Unavailable, "dead letter")
)

// ask sends a request as the gateway does and waits for the answer, which must
// come when nothing hangs.
func (w *World) ask(p *proc, req any, limit time.Duration) (any, error) {
	if w.chance(w.plan.Impatient) {
		w.count("client goes")
		return w.try(p, req, w.between(time.Millisecond, 2*time.Second))
	}
	sure := w.sure // now: what hung before is not behind it
	v, err := w.try(p, req, limit)
	if sure && errors.Is(err, errNoAnswer) {
		w.fail("%s: %T was not answered in %s", p.name, req, limit)
	}
	return v, err
}

// try is ask for somebody who may be too impatient.
func (w *World) try(p *proc, req any, limit time.Duration) (any, error) {
	l := w.life
	if l.dead || !l.loaded { // nobody listens on the socket
		p.sleep(100 * time.Millisecond)
		return nil, errConnectionLost
	}
	w.seq++
	q := &pending{w: w, name: fmt.Sprintf("ask-%d %T", w.seq, req), proc: p}
	pid, _ := l.system.ProcessRegistry.Add(q, q.name)
	w.pending[q.name] = q
	l.system.Root.RequestWithCustomSender(l.node, req, pid)
	until := w.now.Add(limit)
	for !q.done && w.now.Before(until) {
		p.sleep(until.Sub(w.now))
	}
	if q.done {
		if !l.dead {
			l.system.ProcessRegistry.Remove(pid)
		}
		if errors.Is(q.err, errDeadLetter) {
			p.sleep(10 * time.Millisecond) // at once, but an RPC takes its time: else one asks for ever in no time
		}
		return q.value, q.err
	}
	// The caller goes; an answer that comes later is nobody's.
	q.done = true
	delete(w.pending, q.name)
	l.system.ProcessRegistry.Remove(pid)
	l.system.Root.Send(l.node, messages.Abandon{Caller: pid.Id})
	return nil, errNoAnswer
}

// insist asks until it is done, as the kubelet's sync loop does.
func (w *World) insist(p *proc, limit time.Duration, build func() any) any {
	for try := 0; ; try++ {
		v, err := w.ask(p, build(), limit)
		if err == nil {
			return v
		}
		w.say(p.name, fmt.Sprintf("%T: %v", build(), err))
		p.sleep(w.between(100*time.Millisecond, time.Second<<min(try, 4)))
	}
}

// pod is what the workload knows of one pod.
type pod struct {
	w     *World
	p     *proc
	n     int
	id    string
	tries uint32
}

const usualLimit = 2 * time.Minute

// life is one pod's life as a kubelet sees to it.
func (k *pod) life() {
	w, p := k.w, k.p
	p.sleep(w.between(0, w.spread()))
	k.pull()
	k.run()
	for c := range 1 + w.rng.IntN(2) {
		k.container(fmt.Sprintf("c%d", c))
	}
	k.end()
}

// pull makes sure of the pod's images. One that is there may go: damaged, it is put
// aside until somebody pulls it again.
func (k *pod) pull() {
	refs := []string{k.image()}
	for _, m := range k.mounts() {
		if ref := m.GetImage().GetImage(); ref != "" {
			refs = append(refs, ref)
		}
	}
	for _, ref := range refs {
		k.w.insist(k.p, 10*time.Minute, func() any { return messages.PullImage{Ref: ref} })
	}
}

func (k *pod) image() string { return fmt.Sprintf("registry.local/app-%d:1", k.n%5) }

// mounts: some have another image as a volume, some a directory of the node
// that needs a label first.
func (k *pod) mounts() []*runtime.Mount {
	switch k.n % 4 {
	case 1:
	case 2:
		return []*runtime.Mount{{ContainerPath: "/data", HostPath: fmt.Sprintf("/srv/%d", k.n), SelinuxRelabel: true}}
	default:
		return nil
	}
	image := fmt.Sprintf("registry.local/app-%d:1", (k.n+1)%5)
	return []*runtime.Mount{{ContainerPath: "/models", Image: &runtime.ImageSpec{Image: image}, Readonly: true}}
}

func (k *pod) config() *runtime.PodSandboxConfig {
	o := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	switch k.n % 10 {
	case 3:
		o.Network = runtime.NamespaceMode_NODE
	case 7:
		o.Pid = runtime.NamespaceMode_POD
	case 9:
		own := []*runtime.IDMapping{{HostId: uint32(65536 * (1 + k.n)), Length: 65536}}
		o.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: own, Gids: own}
	}
	name := fmt.Sprintf("pod-%d", k.n)
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Namespace: "sim", Uid: "uid-" + name, Attempt: k.tries},
		Hostname: name, LogDirectory: "/var/log/pods/" + name, Labels: map[string]string{"n": fmt.Sprint(k.n)},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: o}},
	}
}

// run starts the pod. A retry of the same attempt joins the first; a pod that
// came up without its caller hearing of it is found by the same name.
func (k *pod) run() {
	k.id = k.w.insist(k.p, 4*time.Minute, func() any {
		if s := k.find(); s != nil && s.State != messages.PodReady { // as the kubelet: kill it and take the next attempt
			k.id = s.ID
			k.remove()
			k.tries++
		}
		return messages.RunPod{Config: k.config(), Handler: "libcontainer"}
	}).(string)
	k.w.say(k.p.name, "ready "+k.id)
	if _, err := k.w.life.env.Index.Pod(k.id); err != nil && !k.w.life.dead {
		k.w.fail("pod %s was answered and is not listed", k.id)
	}
}

// find looks for the pod in the list, as the kubelet's relist does.
func (k *pod) find() *messages.PodSnapshot {
	if k.w.life.dead {
		return nil
	}
	for _, s := range k.w.life.env.Index.Pods() {
		if s.Config.GetMetadata().GetName() == fmt.Sprintf("pod-%d", k.n) {
			return s
		}
	}
	return nil
}

// container is one container's life, restarted once or twice.
func (k *pod) container(name string) {
	w, p := k.w, k.p
	for attempt := range uint32(1 + w.rng.IntN(3)) {
		id, ok := k.create(name, attempt)
		if !ok {
			return // the pod is not ready any more
		}
		_, err := w.ask(p, messages.StartContainer{Pod: k.id, Container: id}, usualLimit)
		if err == nil {
			k.use(id)
		}
		w.doomed[id] = true
		w.insist(p, usualLimit, func() any {
			return messages.StopContainer{Pod: k.id, Container: id, Grace: time.Duration(w.rng.IntN(10)) * time.Second}
		})
		k.mustBe(id, messages.ContainerExited)
		if w.chance(0.7) {
			w.insist(p, usualLimit, func() any { return messages.RemoveContainer{Pod: k.id, Container: id} })
			k.mustBeGone(id)
		}
	}
}

func (k *pod) create(name string, attempt uint32) (string, bool) {
	for {
		v, err := k.w.ask(k.p, messages.CreateContainer{Pod: k.id, Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt}, Image: &runtime.ImageSpec{Image: k.image()},
			Command: []string{"/bin/app"}, LogPath: name + ".log", Mounts: k.mounts(),
		}}, usualLimit)
		if err == nil {
			return v.(string), true
		}
		k.w.say(k.p.name, "create: "+err.Error())
		if kind := messages.KindOf(err); kind == messages.Precondition || kind == messages.Exists || kind == messages.NotFound {
			if s, e := k.w.life.env.Index.Pod(k.id); e != nil || s.State != messages.PodReady {
				return "", false
			}
			switch kind {
			case messages.Exists:
				attempt += 100
			case messages.NotFound:
				k.pull()
			}
		}
		k.p.sleep(k.w.between(100*time.Millisecond, 2*time.Second))
	}
}

// use lets it run, with probes.
func (k *pod) use(id string) {
	w, p := k.w, k.p
	if k.n%3 == 0 {
		k.watch("exec", messages.ExecStream{Pod: k.id, Container: id, Command: []string{"sleep", "4"}, TTY: true})
		k.watch("attach", messages.Attach{Pod: k.id, Container: id})
		k.watch("forward", messages.PortForward{Pod: k.id, Port: 80})
	}
	for range w.rng.IntN(4) {
		p.sleep(w.between(time.Second, 10*time.Second))
		if w.chance(0.3) {
			k.resize(id)
		}
		if w.chance(0.2) {
			k.checkpoint(id)
		}
		_, _ = w.ask(p, messages.ExecSync{Pod: k.id, Container: id, Command: []string{"true"}, Timeout: time.Second}, usualLimit)
	}
}

// watch begins what somebody sits before until it ends by itself: with the
// container, with the pod, or with the daemon, but not later.
func (k *pod) watch(what string, request any) {
	limit := usualLimit // with faults, somebody who sees nothing happen goes
	if k.w.sure {
		limit = 10 * time.Hour
	}
	k.w.spawn(nil, k.p.name+"-"+what, func(p *proc) { _, _ = k.w.ask(p, request, limit) }, nil)
}

// end takes the pod down, as after a deletion.
func (k *pod) end() {
	k.p.sleep(k.w.between(0, 5*time.Second))
	for _, c := range k.w.life.env.Index.Containers() {
		if c.Pod == k.id {
			k.w.doomed[c.ID] = true
		}
	}
	k.w.insist(k.p, usualLimit, func() any { return messages.StopPod{Pod: k.id} })
	k.remove()
}

func (k *pod) remove() {
	id := k.id
	k.w.insist(k.p, usualLimit, func() any { return messages.RemovePod{Pod: id} })
	if l := k.w.life; !l.dead {
		if s, err := l.env.Index.Pod(id); err == nil {
			k.w.fail("pod %s was removed and is still there as %s", id, s.State)
		}
	}
	k.w.say(k.p.name, "removed "+id)
}

func (k *pod) mustBe(id string, want messages.ContainerState) {
	if l := k.w.life; !l.dead && l.loaded {
		if c, err := l.env.Index.Container(id); err == nil && c.State != want && c.State != messages.ContainerRemoving {
			k.w.fail("container %s is %s after Stop was answered, not %s", id, c.State, want)
		}
	}
}

func (k *pod) mustBeGone(id string) {
	if l := k.w.life; !l.dead && l.loaded {
		if c, err := l.env.Index.Container(id); err == nil {
			k.w.fail("container %s was removed and is still there as %s", id, c.State)
		}
	}
}

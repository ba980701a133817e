package actors

import (
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// forContainer is a message on its way to a container.
type forContainer struct {
	id string
	m  any
}

// containerGone tells the pod that nothing of a container is left.
type containerGone struct {
	id      string
	callers waiters
	started waiters // callers of a create that failed
	err     error
}

// containerStopped tells a pod that a container does not run, and that plugins
// know it.
type containerStopped struct{ id string }

// containerBack tells it that one was taken up again, and knows of no request
// of before.
type containerBack struct{ id string }

// onCreate spawns the container, or sends the caller to the one that has the
// name already. One mailbox orders this against StopPod: a container cannot
// appear in a pod that is stopping.
func (s *sandbox) onCreate(ctx actor.Context, m messages.CreateContainer) {
	name := containerName(m.Config)
	if id, taken := s.names[name]; taken {
		ctx.Forward(s.children[id])
		return
	}
	if s.state != messages.PodReady {
		s.env.reply(ctx.Sender(), nil, messages.Errorf(messages.Precondition,
			"container %s cannot be created: pod %s is %s", m.Config.GetMetadata().GetName(), s.id, s.state))
		return
	}
	id := s.env.NewID()
	s.names[name] = id
	pid := s.spawnChild(ctx, id)
	s.env.System.Root.RequestWithCustomSender(pid, createFirst{req: m, pod: s.plan}, ctx.Sender())
}

func containerName(c *runtime.ContainerConfig) string {
	return fmt.Sprintf("%s/%d", c.GetMetadata().GetName(), c.GetMetadata().GetAttempt())
}

func (s *sandbox) spawnChild(ctx actor.Context, id string) *actor.PID {
	if pid, ok := s.children[id]; ok {
		return pid
	}
	pid, err := ctx.SpawnNamed(s.env.Props(ctx.Self().Id+"/"+id, newContainer(s.env, s.id, id)), id)
	if err != nil {
		panic(fmt.Errorf("spawn container %s: %w", id, err))
	}
	s.children[id] = pid
	return pid
}

// adoptChild gives a container its record. A record nobody can read is left to
// the sweeper.
func (s *sandbox) adoptChild(r recordedContainer, spawn func(string) *actor.PID) (ok bool) {
	if r.err != nil {
		s.env.Log.Error("a container's record cannot be used; what it holds is left to the sweeper", "pod", s.id, "container", r.id, "err", r.err)
		return false
	}
	s.names[containerName(r.rec.Plan.Config)] = r.id
	s.env.send(spawn(r.id), adoptContainer{rec: r.rec, pod: s.plan})
	return true
}

// forward passes a request on; one for a container that is not there is
// answered here.
func (s *sandbox) forward(ctx actor.Context, m forContainer) {
	pid, ok := s.children[m.id]
	_, takes := m.m.(messages.Taking)
	switch {
	case ok:
		s.env.System.Root.RequestWithCustomSender(pid, m.m, ctx.Sender())
	case takes:
		s.env.reply(ctx.Sender(), messages.None{}, nil)
	default:
		s.env.reply(ctx.Sender(), nil, messages.Errorf(messages.NotFound, "container %s is not in pod %s", m.id, s.id))
	}
}

// onContainerGone unlinks, then poisons: nothing can queue behind the poison,
// because every request for the container passes through here.
func (s *sandbox) onContainerGone(ctx actor.Context, m containerGone) {
	if pid, ok := s.children[m.id]; ok {
		delete(s.children, m.id)
		delete(s.ended, m.id)
		ctx.Poison(pid)
	}
	s.unname(m.id)
	s.lostChild(m.id, m.err)
	m.started.answer(s.env, nil, m.err)
	m.callers.answer(s.env, messages.None{}, nil)
	s.goOn()
}

func (s *sandbox) onContainerStopped(m containerStopped) {
	if _, ours := s.children[m.id]; ours {
		s.ended[m.id] = true
	}
	s.goOn()
}

func (s *sandbox) unname(container string) {
	for name, id := range s.names {
		if id == container {
			delete(s.names, name)
		}
	}
}

// Revives says that a container's actor that panics is always taken up again: it
// runs on. A session ends with its actor.
func (s *sandbox) Revives(child string) bool {
	_, session := s.forwards[child]
	return !session
}

// childrenStopped asks the containers that still run to stop, and says whether
// none does. StopPodSandbox kills without grace (cri-api: "forcibly
// terminated"); the kubelet has stopped the containers with grace before.
func (s *sandbox) childrenStopped() bool {
	all := true
	for _, id := range s.childIDs() {
		if !s.ended[id] {
			all = false
			s.env.send(s.children[id], killForPod{})
		}
	}
	return all
}

func (s *sandbox) childrenGone() bool {
	for _, id := range s.childIDs() {
		s.env.send(s.children[id], messages.RemoveContainer{Pod: s.id, Container: id})
	}
	return len(s.children) == 0
}

// childIDs are in a fixed order: the simulator replays.
func (s *sandbox) childIDs() []string { return sortedKeys(s.children) }

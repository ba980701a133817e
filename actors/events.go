package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// events tells subscribers what happened. Each has a bounded queue of its own;
// one that is too slow is told so by the end of its stream, and nobody else
// waits for it.
type events struct {
	crew
	subscribers map[string]Subscriber
}

// Subscriber takes events without blocking; false means that it is full, and
// it is then closed with an error and forgotten.
type Subscriber interface {
	Offer(messages.Event) bool
	Close(error)
}

// Subscribe and Unsubscribe are sent to the events actor by the edge.
type (
	Subscribe struct {
		Name string
		To   Subscriber
	}
	Unsubscribe struct{ Name string }
)

type podChanged struct {
	pod      string
	from, to messages.PodState
	at       time.Time
	last     *messages.PodSnapshot // of a pod that is no longer listed
}

type containerChanged struct {
	pod, container string
	from, to       messages.ContainerState
	at             time.Time
	last           *messages.PodSnapshot // of its pod, which may go with it
}

func newEvents(env *Env) actor.Producer {
	return func() actor.Actor { return &events{crew: crew{env: env}, subscribers: map[string]Subscriber{}} }
}

// Receive implements actor.Actor.
func (e *events) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		e.start(e.env, ctx, "events")
		e.env.Index.putActor(messages.ActorInfo{Path: ctx.Self().Id, Kind: "events", State: "ready", Since: e.env.Clock.Now()})
	case *actor.Stopping, *actor.Restarting:
		for _, name := range sortedKeys(e.subscribers) {
			e.subscribers[name].Close(messages.Errorf(messages.Unavailable, "the event stream ends: troupe stops or starts anew; subscribe again and list"))
		}
		e.subscribers = nil
	case *actor.Stopped:
		e.env.Index.dropActor(ctx.Self().Id)
	case Subscribe:
		e.subscribers[m.Name] = m.To
	case Unsubscribe:
		delete(e.subscribers, m.Name)
	case podChanged:
		e.pod(m)
	case containerChanged:
		e.container(m)
	default:
		if !e.handled(m) {
			unexpected(e.env, ctx, "ready")
		}
	}
}

// pod and container turn our edges into the four types CRI has.
func (e *events) pod(m podChanged) {
	switch {
	case m.from == "": // it starts, or was adopted
	case m.to == messages.PodReady:
		e.publish(m.pod, m.pod, runtime.ContainerEventType_CONTAINER_CREATED_EVENT, m.at)
		e.publish(m.pod, m.pod, runtime.ContainerEventType_CONTAINER_STARTED_EVENT, m.at)
	case m.to == messages.PodNotReady && m.from != messages.PodStarting:
		e.publish(m.pod, m.pod, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, m.at)
	case m.to == "" && m.from == messages.PodRemoving:
		e.tell(m.pod, m.pod, runtime.ContainerEventType_CONTAINER_DELETED_EVENT, m.at, m.last)
	}
}

func (e *events) container(m containerChanged) {
	switch {
	case m.from == "":
	case m.to == messages.ContainerCreated:
		e.publish(m.pod, m.container, runtime.ContainerEventType_CONTAINER_CREATED_EVENT, m.at)
	case m.to == messages.ContainerRunning:
		e.publish(m.pod, m.container, runtime.ContainerEventType_CONTAINER_STARTED_EVENT, m.at)
	case m.to == messages.ContainerExited:
		e.publish(m.pod, m.container, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, m.at)
	case m.to == "" && m.from == messages.ContainerRemoving:
		e.tell(m.pod, m.container, runtime.ContainerEventType_CONTAINER_DELETED_EVENT, m.at, m.last)
	}
}

func (e *events) publish(pod, id string, t runtime.ContainerEventType, at time.Time) {
	e.tell(pod, id, t, at, nil)
}

// tell tells all. An event without its pod's status would be thrown away by
// the kubelet; last is it for a pod that is no longer listed.
func (e *events) tell(pod, id string, t runtime.ContainerEventType, at time.Time, last *messages.PodSnapshot) {
	if len(e.subscribers) == 0 {
		return
	}
	p, listed := e.env.Index.pod(pod)
	if !listed {
		p = last
	}
	ev := messages.Event{Type: t, ID: id, Pod: p, Container: e.env.Index.ContainersOf(pod), At: at}
	for _, name := range sortedKeys(e.subscribers) {
		if to := e.subscribers[name]; !to.Offer(ev) {
			e.env.Log.Warn("a subscriber to events is too slow and was told so", "subscriber", name)
			to.Close(messages.Errorf(messages.Busy, "events come faster than they are read: subscribe again and list"))
			delete(e.subscribers, name)
		}
	}
}

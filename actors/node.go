package actors

import (
	"context"
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node routes: it knows which pod has which id and which name, and nothing
// more, so that there is little in it to go wrong. All requests pass through
// here; that is what lets a pod be unlinked before it is poisoned.
type node struct {
	crew
	loaded  bool
	waiting []postponed // requests that came before the journal was read
	pods    map[string]*actor.PID
	names   map[string]string // pod name → id
	ready   func(error)       // told when requests are served

	restoring []*waiters // whose checkpoints are looked at
}

// journalled is all that the journal has.
type journalled struct {
	pods    map[string]*records
	damaged bool
}

// NewNode is the root of the tree. ready is called when the journal has been
// read and every pod in it is listed, or with the error that keeps the daemon
// from starting; after a panic of this actor, again. It must not block.
func NewNode(env *Env, ready func(error)) actor.Producer {
	return func() actor.Actor {
		return &node{crew: crew{env: env}, pods: map[string]*actor.PID{}, names: map[string]string{}, ready: ready}
	}
}

// Receive implements actor.Actor.
func (n *node) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		n.begin(ctx)
	case *actor.Stopping, *actor.Restarting:
		n.handled(m)
		settle(n.env, n.self, n)
	case *actor.Stopped:
		n.env.Index.dropActor(ctx.Self().Id)
	case podGone:
		n.onGone(ctx, m)
	case processFact:
		if pid, ok := n.pods[m.Pod]; ok {
			ctx.Send(pid, m)
		}
	case messages.Abandon:
		ctx.Send(n.env.images, m)
		ctx.Send(n.env.checker, m)
		if n.env.sweeper != nil {
			ctx.Send(n.env.sweeper, m)
		}
	case messages.CheckImages:
		ctx.Forward(n.env.checker)
	case messages.PullImage, messages.RemoveImage, messages.RefreshImages:
		ctx.Forward(n.env.images)
	default:
		if n.handled(m) {
			return
		}
		if !n.loaded {
			n.waiting = append(n.waiting, later(ctx.Sender(), m))
			return
		}
		n.route(ctx, ctx.Sender(), m)
	}
}

// begin is daemon start and restart after a panic: both read the journal.
func (n *node) begin(ctx actor.Context) {
	n.start(n.env, ctx, "node")
	n.env.nodePID = ctx.Self()
	n.publish("loading")
	n.env.events = n.serve(ctx, "events")
	n.env.images = n.serve(ctx, "images")
	n.env.checker = n.serve(ctx, "checker")
	n.serve(ctx, "monitor")
	n.read(ctx)
}

// services are the actors there is one of.
var services = map[string]func(*Env) actor.Producer{
	"checker": newChecker, "events": newEvents, "images": newImages, "monitor": newMonitor, "network": newNetwork, "sweeper": newSweeper,
}

func (n *node) serve(ctx actor.Context, name string) *actor.PID {
	return n.spawn(ctx, name, services[name](n.env))
}

// read reads the journal. At daemon start an error ends the daemon; after a
// panic of this actor there is nothing to do but to try again.
func (n *node) read(ctx actor.Context) {
	n.do(Job{Lane: LaneRead, Name: "load journal", Limit: n.env.Settings.StepLimit}, func(ctx context.Context) (any, error) {
		all, damaged, err := n.env.Node.Journal.Load(ctx)
		for _, d := range damaged {
			n.env.Log.Error("a damaged record was put aside; what it alone knew of is removed with its pod or by the sweeper", "record", d)
		}
		byPod := map[string][]backends.Record{}
		for _, r := range all {
			byPod[r.Pod] = append(byPod[r.Pod], r)
		}
		found := journalled{pods: map[string]*records{}, damaged: len(damaged) > 0}
		for id := range byPod {
			found.pods[id] = readRecords(byPod[id])
		}
		return found, err
	}, func(d done) {
		if d.err != nil {
			n.env.Log.Error("the journal could not be read and is tried again", "err", d.err)
			n.after(n.env.Settings.RetryMax, func() { n.read(ctx) })
		} else {
			n.load(ctx, d.value.(journalled))
		}
		n.ready(d.err)
	})
}

func (n *node) spawn(ctx actor.Context, name string, p actor.Producer) *actor.PID {
	pid, err := ctx.SpawnNamed(n.env.Props(ctx.Self().Id+"/"+name, p), name)
	if err != nil {
		panic(fmt.Errorf("spawn %s: %w", name, err))
	}
	return pid
}

func (n *node) publish(state string) {
	n.env.Index.putActor(messages.ActorInfo{Path: n.self.Id, Kind: "node", State: state, Since: n.env.Clock.Now()})
}

// load lists every recorded pod at once, as it was recorded, so that nobody who
// asks early takes it for gone, and lets the pods recover side by side.
func (n *node) load(ctx actor.Context, found journalled) {
	n.env.Index.forget(found.pods)
	for _, id := range sortedKeys(found.pods) {
		if err := found.pods[id].err; err != nil {
			n.env.Log.Error("a pod's record cannot be used; what it holds is left to the sweeper", "pod", id, "err", err)
			continue
		}
		rec := found.pods[id].pod
		past := rec.Plan.past(n.env)
		if past && rec.State == messages.PodReady { // nobody may take it for alive, however short
			rec.State, rec.Reason = messages.PodNotReady, nodeRestarted
		}
		n.env.Index.putPod(&messages.PodSnapshot{
			ID: id, Config: rec.Plan.Config, Handler: rec.Plan.Handler, CreatedAt: rec.Plan.CreatedAt, State: rec.State, Reason: rec.Reason,
			Namespaces: rec.Plan.Namespaces, IPs: rec.Plan.IPs, Cgroup: rec.Plan.Cgroup, Listed: rec.State != messages.PodStarting,
			Past: past,
		})
		for _, r := range found.pods[id].containers {
			n.listContainer(id, r)
		}
		n.names[nameOf(rec.Plan.Config)] = id
		n.pods[id] = n.spawn(ctx, "sandbox-"+id, newSandbox(n.env, id))
		ctx.Send(n.pods[id], adopt{records: found.pods[id], damaged: found.damaged})
	}
	// These two take from the node what no pod owns: not before all pods are known.
	n.env.network = n.serve(ctx, "network")
	n.env.sweeper = n.serve(ctx, "sweeper")
	n.loaded = true
	n.publish("ready")
	for _, p := range n.waiting {
		n.route(ctx, p.sender(), p.m)
	}
	n.waiting = nil
}

func (n *node) listContainer(pod string, r recordedContainer) {
	if r.err != nil {
		return // the pod says so when it adopts its children
	}
	if _, known := n.env.Index.container(r.id); known {
		return
	}
	rec := &r.rec
	c := container{
		trip: trip[containerPlan]{plan: rec.Plan}, id: r.id, pod: pod, state: rec.State,
		process: rec.Process, reason: rec.Reason, message: rec.Message, unsettled: rec.Updating,
	}
	n.env.Index.putContainer(c.snapshot())
}

// nameOf is what a kubelet retries by.
func nameOf(c *runtime.PodSandboxConfig) string {
	m := c.GetMetadata()
	return fmt.Sprintf("%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

func (n *node) route(ctx actor.Context, sender *actor.PID, m any) {
	root := n.env.System.Root
	switch m := m.(type) {
	case messages.RunPod:
		root.RequestWithCustomSender(n.podFor(ctx, m), m, sender)
	case messages.RestorePod:
		n.restore(ctx, sender, m)
	case messages.Addressed:
		n.toPod(sender, m)
	case messages.FindLeftovers:
		root.RequestWithCustomSender(n.env.sweeper, m, sender)
	case messages.SetPodRanges:
		root.RequestWithCustomSender(n.env.network, m, sender)
	default:
		unexpected(n.env, ctx, "ready")
	}
}

// podFor is the pod that has the name, or a new one.
func (n *node) podFor(ctx actor.Context, m messages.RunPod) *actor.PID {
	name := nameOf(m.Config)
	if id, taken := n.names[name]; taken {
		return n.pods[id]
	}
	id := n.env.NewID()
	n.names[name] = id
	n.pods[id] = n.spawn(ctx, "sandbox-"+id, newSandbox(n.env, id))
	return n.pods[id]
}

// toPod passes a request on. A pod that is not there has nothing to stop or
// remove: those are answered as done.
func (n *node) toPod(sender *actor.PID, req messages.Addressed) {
	pod, container := req.About()
	var m any = req
	if container != "" {
		m = forContainer{id: container, m: req}
	}
	pid, ok := n.pods[pod]
	_, takes := req.(messages.Taking)
	switch {
	case ok:
		n.env.System.Root.RequestWithCustomSender(pid, m, sender)
	case takes:
		n.env.reply(sender, messages.None{}, nil)
	default:
		n.env.reply(sender, nil, messages.Errorf(messages.NotFound, "pod %s does not exist", pod))
	}
}

// onGone unlinks, then poisons, then answers: when a caller hears of it, the
// name is free.
func (n *node) onGone(ctx actor.Context, m podGone) {
	if pid, ok := n.pods[m.pod]; ok {
		delete(n.pods, m.pod)
		ctx.Poison(pid)
	}
	for name, id := range n.names {
		if id == m.pod {
			delete(n.names, name)
		}
	}
	m.starters.answer(n.env, nil, m.err)
	m.callers.answer(n.env, messages.None{}, nil)
}

// Revives says that whatever panics below the node is taken up again: the pods
// and the actors there is one of (see supervisor.Strategy).
func (n *node) Revives(string) bool { return true }

func (n *node) debts() []*waiters {
	return append(callersOf(n.waiting, (*postponed).callers), n.restoring...)
}

// unexpected answers what a state does not know: the library would drop it.
func unexpected(env *Env, ctx actor.Context, state string) {
	m := ctx.Message()
	switch m.(type) {
	case actor.AutoReceiveMessage, actor.SystemMessage, actor.MessageBatch:
		return
	}
	env.Log.Error("unexpected message", "actor", ctx.Self().Id, "state", state, "type", fmt.Sprintf("%T", m))
	env.reply(ctx.Sender(), nil, messages.Errorf(messages.Precondition, "%T is not possible now: %s is %s", m, ctx.Self().Id, state))
}

// parentOf is the actor above, by its path.
func parentOf(env *Env, self *actor.PID) *actor.PID {
	for i, b := range slices.Backward([]byte(self.Id)) {
		if b == '/' {
			return actor.NewPID(self.Address, self.Id[:i])
		}
	}
	return env.nodePID
}

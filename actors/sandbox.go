package actors

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The sandbox actor's states and what each does on what:
//
//	in        on                      does                                            to
//	(spawned) RunPod                  the first step                                  starting
//	(spawned) adopt                   compares the record with the node               any
//	starting  RunPod                  joins the waiters: no second start              starting
//	starting  step done               next step; after the last, answers              starting, ready
//	starting  step failed, StopPod,   cancels, undoes all, answers the first error    gone; notReady
//	          RemovePod                                                               if an undo failed
//	ready     RunPod                  answers its id: the retry of a lost answer      ready
//	ready     CreateContainer         spawns the child                                ready
//	ready     pause exited            publishes                                       notReady
//	ready,    StopPod                 stops children, undoes the onStop steps         stopping → notReady
//	notReady
//	stopping  StopPod                 joins the waiters                               stopping
//	stopping  undo failed             answers the error, tries again, without end     stopping
//	any but   RemovePod               stops, removes children, undoes the rest        removing → gone
//	starting
//	any       a container's request   forwards it to the child                        same
//	any       anything else           refuses: FailedPrecondition                     same
var podEdges = map[messages.PodState][]messages.PodState{
	"":                   {messages.PodStarting, messages.PodReady, messages.PodNotReady, messages.PodStopping, messages.PodRemoving},
	messages.PodStarting: {messages.PodReady, messages.PodNotReady, messages.PodRemoving},
	messages.PodReady:    {messages.PodNotReady, messages.PodStopping, messages.PodRemoving},
	messages.PodNotReady: {messages.PodStopping, messages.PodRemoving},
	messages.PodStopping: {messages.PodNotReady, messages.PodRemoving},
	messages.PodRemoving: {},
}

// sandbox owns a pod: its cgroup, files, namespaces, network and pause, by
// way of its steps, and its containers as children.
type sandbox struct {
	crew
	id    string
	state messages.PodState
	since time.Time
	plan  podPlan
	walk  walk[podPlan]
	conf  []byte // the config as the journal keeps it

	recovering bool        // what it has is being found out
	pauseGone  bool        // its pause was seen to exit
	over       bool        // nothing is left of it; the node is about to unlink it
	postponed  []postponed // requests that came meanwhile

	reason string
	first  error // what ended a start
	tries  int   // of the way back
	past   timeline
	step   string // under way

	running, stopping, removing waiters
	children                    map[string]*actor.PID
	broken                      map[string][]postponed // children given up, with what waits for them
	names                       map[string]string      // container name and attempt → id
}

// adopt hands a pod its records after the daemon's death; without records it
// reads them itself.
type adopt struct {
	records []backends.Record
	damaged bool // a record was lost, perhaps of a container of this pod
}

// isRequest: somebody wants something of a pod or its containers.
func isRequest(m any) bool {
	switch m.(type) {
	case messages.RunPod, messages.StopPod, messages.RemovePod, messages.CreateContainer, forContainer:
		return true
	}
	return false
}

// podGone tells the node that nothing of a pod is left; the node answers the
// callers once the name is free.
type podGone struct {
	pod      string
	callers  waiters
	err      error // of the callers of a start that failed
	starters waiters
}

func newSandbox(env *Env, id string) actor.Producer {
	return func() actor.Actor {
		return &sandbox{
			crew: crew{env: env}, id: id, children: map[string]*actor.PID{}, names: map[string]string{}, broken: map[string][]postponed{},
			walk: walk[podPlan]{steps: podSteps},
		}
	}
}

// Receive implements actor.Actor.
func (s *sandbox) Receive(ctx actor.Context) {
	if isRequest(ctx.Message()) && (s.over || s.recovering) {
		s.putOff(ctx.Sender(), ctx.Message())
		return
	}
	switch m := ctx.Message().(type) {
	case *actor.Started:
		s.start(s.env, ctx, s.id)
		if s.env.Index.acts(s.self.Id) { // a restart after a panic
			s.recover(ctx, adopt{})
		} else {
			s.env.Index.putActor(messages.ActorInfo{Path: s.self.Id, Kind: "sandbox", State: "new", Since: s.env.Clock.Now()})
		}
	case *actor.Stopping, *actor.Restarting:
		s.handled(m)
		settle(s.env, s.self, s)
	case *actor.Terminated:
		s.childEnded(ctx, m.Who)
	case adopt:
		if s.state == "" && !s.recovering {
			s.recover(ctx, m)
		}
	case messages.RunPod:
		s.onRun(ctx, m)
	case messages.StopPod:
		s.onStop(ctx.Sender())
	case messages.RemovePod:
		s.onRemove(ctx.Sender())
	case messages.CreateContainer:
		s.onCreate(ctx, m)
	case forContainer:
		s.forward(ctx, m)
	case containerGone:
		s.onContainerGone(ctx, m)
	case containerStopped:
		s.goOn()
	case processFact:
		s.onFact(ctx, m.ProcessState)
	case *actor.Stopped:
		s.env.Index.dropActor(s.self.Id)
	case messages.Abandon:
	default:
		if !s.handled(m) {
			unexpected(s.env, ctx, string(s.state))
		}
	}
}

func (s *sandbox) debts() []*waiters {
	held := waiters{}
	for _, p := range s.postponed {
		held.join(p.sender)
	}
	for _, id := range sortedKeys(s.broken) {
		for _, p := range s.broken[id] {
			held.join(p.sender)
		}
	}
	return []*waiters{&s.running, &s.stopping, &s.removing, &held}
}

// become is the only place that changes the state. It checks the edge against
// the table, publishes, tells the subscribers and logs; the journal is written
// by the next job (see journal).
func (s *sandbox) become(next messages.PodState, reason string) {
	if next != s.state && !slices.Contains(podEdges[s.state], next) {
		panic(fmt.Sprintf("sandbox %s: no edge from %q to %q", s.id, s.state, next))
	}
	now, from := s.env.Clock.Now(), s.state
	took := sinceOf(now, s.since)
	s.env.Log.Info("pod", "pod", s.id, "from", string(from), "to", string(next), "took", took, reasonAttr(reason))
	s.past = s.past.with(messages.Edge{At: now, From: string(from), To: string(next), Took: took, Err: reason})
	s.state, s.since, s.reason = next, now, reason
	s.publish()
	s.env.send(s.env.events, podChanged{pod: s.id, from: from, to: next, at: now})
}

func reasonAttr(reason string) slog.Attr {
	if reason == "" {
		return slog.Attr{}
	}
	return slog.String("reason", reason)
}

func (s *sandbox) publish() {
	act := messages.Activity{Step: s.step, Since: s.since, Error: s.reason}
	s.env.Index.putPod(&messages.PodSnapshot{
		ID: s.id, Config: s.plan.Config, Handler: s.plan.Handler, CreatedAt: s.plan.CreatedAt,
		State: s.state, Reason: s.reason, Activity: act, Timeline: s.past,
		Namespaces: s.plan.Namespaces, IPs: s.plan.IPs, Cgroup: s.plan.Cgroup,
		Listed: s.state != messages.PodStarting,
	})
	s.env.Index.putActor(messages.ActorInfo{
		Path: s.self.Id, Kind: "sandbox", State: string(s.state), Since: s.since, Step: s.step, Owns: s.owns(),
	})
}

func (s *sandbox) owns() []string {
	var o []string
	for _, n := range s.walk.Done {
		switch n {
		case "cgroup":
			o = append(o, "cgroup:"+s.plan.Cgroup)
		case "namespaces":
			o = appendNamed(o, "netns:", s.plan.Namespaces.Network)
		case "network":
			for _, ip := range s.plan.IPs {
				o = append(o, "ip:"+ip)
			}
		case "pause":
			o = append(o, fmt.Sprintf("pid:%d", s.plan.PausePid))
		}
	}
	return o
}

func appendNamed(list []string, prefix, s string) []string {
	if s == "" {
		return list
	}
	return append(list, prefix+s)
}

// journal writes the present state in the actor's turn among its jobs, so that
// it is on disk before the effects of any later job.
func (s *sandbox) journal() {
	data := encode(podRecord{Version: recordVersion, Config: s.conf, State: s.state, Reason: s.reason, Done: s.walk.Done, Plan: s.plan})
	s.do(Job{Lane: LaneStop, Name: "journal", Limit: s.env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, s.env.Node.Journal.Save(ctx, backends.Key{Pod: s.id}, data)
	}, func(d done) {
		if d.err != nil && !s.over { // the state is in memory: write it again
			s.env.Log.Warn("the journal was not written and is tried again", "pod", s.id, "err", d.err)
			s.after(s.env.Settings.RetryMin, s.journalAgain)
		}
	})
}

// putOff keeps a request until the pod knows what it has. One that comes when
// the pod has gone goes back to the node, which by then has unlinked the pod.
func (s *sandbox) putOff(sender *actor.PID, m any) {
	if !s.over {
		s.postponed = append(s.postponed, postponed{sender, m})
		return
	}
	if f, ok := m.(forContainer); ok {
		m = f.m
	}
	if _, fact := m.(processFact); !fact {
		s.env.System.Root.RequestWithCustomSender(s.env.nodePID, m, sender)
	}
}

// journalAgain writes what is true by now. A start journals itself, step by
// step, and on the way back a record must not come again after it was removed.
func (s *sandbox) journalAgain() {
	if !s.over && s.state != messages.PodStarting && s.state != messages.PodRemoving && s.walk.undoing() == nil {
		s.journal()
	}
}

// --- starting ---

func (s *sandbox) onRun(ctx actor.Context, m messages.RunPod) {
	switch s.state {
	case "":
		conf, err := proto.Marshal(m.Config)
		if err != nil {
			panic(err) // it came out of the same library a moment ago
		}
		s.conf = conf
		s.plan = podPlan{ID: s.id, Config: m.Config, Handler: m.Handler, CreatedAt: s.env.Clock.Now()}
		s.running.join(ctx.Sender())
		s.become(messages.PodStarting, "")
		s.forth()
	case messages.PodStarting:
		s.running.join(ctx.Sender())
	case messages.PodReady:
		s.env.reply(ctx.Sender(), s.id, nil)
	default:
		s.env.reply(ctx.Sender(), nil, messages.Errorf(messages.Exists,
			"pod %s/%s attempt %d exists already as %s and is %s: remove it or raise the attempt",
			m.Config.GetMetadata().GetNamespace(), m.Config.GetMetadata().GetName(), m.Config.GetMetadata().GetAttempt(), s.id, s.state))
	}
}

// forth does the next step and journals it in the same job: the answer to
// RunPod is given only when the record says ready.
func (s *sandbox) forth() {
	st := s.walk.next(&s.plan)
	if st == nil {
		s.become(messages.PodReady, "")
		s.running.answer(s.env, s.id, nil)
		s.pauseExited()
		return
	}
	s.step = st.name
	s.publish()
	plan, conf, doneBefore := s.plan, s.conf, slices.Clone(s.walk.Done) // the worker's own
	s.do(Job{Lane: LaneStart, Name: st.name, Limit: limitOf(st.limit, s.env.Settings.StepLimit)}, func(ctx context.Context) (any, error) {
		if err := st.do(ctx, s.env.Node, &plan); err != nil {
			return plan, err
		}
		rec := podRecord{Version: recordVersion, Config: conf, State: messages.PodStarting, Done: append(doneBefore, st.name), Plan: plan}
		after := walk[podPlan]{steps: podSteps, Done: rec.Done}
		if after.next(&plan) == nil {
			rec.State = messages.PodReady
		}
		return plan, s.env.Node.Journal.Save(ctx, backends.Key{Pod: s.id}, encode(rec))
	}, s.stepped)
}

func limitOf(own, usual time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	return usual
}

func (s *sandbox) stepped(d done) {
	s.step = ""
	s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
	if plan, ok := d.value.(podPlan); ok {
		s.plan = plan
	}
	if d.err == nil && s.first == nil {
		s.walk.Done = append(s.walk.Done, d.name)
		s.forth()
		return
	}
	if d.err == nil {
		s.walk.Done = append(s.walk.Done, d.name)
	}
	if s.first == nil {
		s.first = fmt.Errorf("pod %s: step %s: %w", podName(s.plan.Config), d.name, d.err)
		s.env.Log.Warn("a step failed", "pod", s.id, "step", d.name, "took", d.took, "err", d.err)
	}
	s.unwind(onRemove, true)
}

// --- going back ---

// unwind undoes the steps of a phase, last first.
func (s *sandbox) unwind(to phase, half bool) {
	s.walk.turn(&s.plan, to, half)
	s.backward(to)
}

func (s *sandbox) backward(to phase) {
	st := s.walk.undoing()
	if st == nil {
		s.unwound(to)
		return
	}
	s.step = "undo " + st.name
	s.publish()
	plan := s.plan
	s.do(Job{Lane: LaneStop, Name: s.step, Limit: s.env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, st.undo(ctx, s.env.Node, &plan)
	}, func(d done) {
		s.step = ""
		s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
		if d.err != nil {
			s.env.Log.Warn("an undo failed and will be tried again", "pod", s.id, "step", d.name, "try", s.tries, "err", d.err)
		}
		s.walk.undone(d.err)
		s.backward(to)
	})
}

// unwound ends a way back: it is tried again without end while something is
// left, because what is given up leaks.
func (s *sandbox) unwound(to phase) {
	if err := s.walk.failed(); err != nil {
		s.stuck(to, err)
		return
	}
	s.tries = 0
	if to == onRemove {
		s.gone()
		return
	}
	s.plan.Namespaces, s.plan.IPs = messages.Namespaces{}, nil
	s.become(messages.PodNotReady, "stopped")
	s.journal()
	s.stopping.answer(s.env, messages.None{}, nil)
	if len(s.removing) > 0 {
		s.beginRemoval()
	}
}

func (s *sandbox) stuck(to phase, err error) {
	err = fmt.Errorf("pod %s: %w", podName(s.plan.Config), err)
	s.running.answer(s.env, nil, s.first)
	s.stopping.answer(s.env, nil, err)
	s.removing.answer(s.env, nil, err)
	if s.state == messages.PodStarting { // shown, so that the kubelet can ask for its removal
		s.become(messages.PodNotReady, s.first.Error())
		s.become(messages.PodRemoving, err.Error())
	} else {
		s.reason = err.Error()
		s.publish()
	}
	s.journal()
	s.after(backoff(s.env.Settings, s.tries), s.goOn)
	s.tries++
}

// gone: nothing is left on the node. The node actor unlinks the pod, and only
// then are the callers answered: the name is free when they hear of it.
func (s *sandbox) gone() {
	s.over = true
	s.env.Index.dropPod(s.id)
	s.env.send(s.env.events, podChanged{pod: s.id, from: s.state, to: "", at: s.env.Clock.Now()})
	s.env.send(s.env.nodePID, podGone{pod: s.id, callers: append(s.stopping, s.removing...), starters: s.running, err: s.first})
	s.running, s.stopping, s.removing = nil, nil, nil
}

// --- stopping and removing ---

func (s *sandbox) onStop(sender *actor.PID) {
	switch s.state {
	case messages.PodStarting:
		s.stopping.join(sender)
		s.abort("stopped")
	case messages.PodReady, messages.PodNotReady:
		s.stopping.join(sender)
		s.beginStop()
	default:
		s.stopping.join(sender)
	}
}

func (s *sandbox) onRemove(sender *actor.PID) {
	s.removing.join(sender)
	switch s.state {
	case messages.PodStarting:
		s.abort("removed")
	case messages.PodReady:
		s.beginStop()
	case messages.PodNotReady:
		s.beginRemoval()
	}
}

// abort ends a start: the job under way is cancelled, and its outcome begins
// the way back.
func (s *sandbox) abort(by string) {
	if s.first == nil {
		s.first = messages.Errorf(messages.Canceled, "pod %s was %s while it was starting", podName(s.plan.Config), by)
		s.cancel()
	}
}

func (s *sandbox) beginStop() {
	s.become(messages.PodStopping, "")
	s.journal()
	s.goOn()
}

func (s *sandbox) beginRemoval() {
	s.become(messages.PodRemoving, "")
	s.journal()
	s.goOn()
}

// goOn continues a stop or removal as far as the children let it: a network is
// not taken from a living container.
func (s *sandbox) goOn() {
	if s.walk.undoing() != nil || s.step != "" {
		return
	}
	switch s.state {
	case messages.PodStopping:
		if !s.childrenStopped() {
			return
		}
		s.unwind(onStop, false)
	case messages.PodRemoving:
		if !s.childrenGone() {
			return
		}
		s.unwind(onRemove, false)
	}
}

// --- what is found ---

func (s *sandbox) onFact(ctx actor.Context, st messages.ProcessState) {
	if st.Container != s.id {
		s.forward(ctx, forContainer{id: st.Container, m: processFact{st}})
		return
	}
	if st.Status != messages.ProcessExited && st.Status != messages.ProcessGone {
		return
	}
	s.pauseGone = true
	s.pauseExited()
}

// pauseExited shows a ready pod as what it is without its pause. The exit can
// be told before the outcome of the step that started it.
func (s *sandbox) pauseExited() {
	if s.pauseGone && s.state == messages.PodReady {
		s.become(messages.PodNotReady, lostPause)
		s.journal()
	}
}

const lostPause = "the pause process that holds the pod's PID namespace has exited"

func podName(c *runtime.PodSandboxConfig) string {
	m := c.GetMetadata()
	return m.GetNamespace() + "/" + m.GetName()
}

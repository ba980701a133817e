package actors

import (
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
//	(spawned) RestorePod              the same; after the last step, the containers   starting
//	starting  all of them created     answers: see restore.go                         ready
//	starting  RunPod                  joins the waiters: no second start              starting
//	starting  step done               next step; after the last, answers              starting, ready
//	starting  step failed, StopPod,   cancels, undoes all, answers the first error    gone; notReady
//	          RemovePod                                                               if an undo failed
//	ready     RunPod                  answers its id: the retry of a lost answer      ready
//	ready     CreateContainer         spawns the child                                ready
//	ready     PortForward             opens a session                                 ready
//	ready     pause exited            publishes                                       notReady
//	ready,    StopPod                 stops children, undoes the onStop steps         stopping → notReady
//	notReady
//	stopping  StopPod                 joins the waiters                               stopping
//	stopping  undo failed             answers the error, tries again, without end     stopping
//	any but   RemovePod               stops, removes children, undoes the rest        removing → gone
//	starting
//	ready     Checkpoint…             pauses, captures, resumes; one after another    same
//	ready,    UpdatePod               takes down the resources, one after another     same
//	notReady
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
	trip[podPlan]
	id    string
	state messages.PodState
	since time.Time
	conf  []byte // the config as the journal keeps it

	recovering bool        // what it has is being found out
	pauseGone  bool        // its pause was seen to exit
	postponed  []postponed // requests that came meanwhile

	reason string

	running, stopping, removing waiters
	updates                     []podUpdate // of its resources, in order; the first is under way
	captures                    []*capture  // checkpoints, in order; the first is under way
	children                    map[string]*actor.PID
	ended                       map[string]bool       // children that have said that they do not run
	names                       map[string]string     // container name and attempt → id
	forwards                    map[string]*actor.PID // forwarded ports under way
	restoring                   *restoration          // until the pod is ready
}

// adopt hands a pod its records after the daemon's death; without records it
// reads them itself.
type adopt struct {
	records *records
	damaged bool // a record was lost, perhaps of a container of this pod
}

// isRequest: somebody wants something of a pod or its containers.
func isRequest(m any) bool {
	switch m.(type) {
	case messages.RunPod, restorePod, messages.Addressed, forContainer:
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
		s := &sandbox{id: id, children: map[string]*actor.PID{}, ended: map[string]bool{}, names: map[string]string{}, forwards: map[string]*actor.PID{}}
		s.trip = trip[podPlan]{crew: crew{env: env}, who: s, place: backends.Key{Pod: id}, walk: walk[podPlan]{steps: podSteps}}
		return s
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
		delete(s.forwards, m.Who.Id) // the end of a session
	case adopt:
		if s.state == "" && !s.recovering {
			s.recover(ctx, m)
		}
	case messages.RunPod:
		s.onRun(ctx, m)
	case restorePod:
		s.onRestore(ctx, m.RestorePod)
	case restored:
		s.onRestored(m)
	case messages.StopPod:
		s.onStop(ctx.Sender())
	case messages.RemovePod:
		s.onRemove(ctx.Sender())
	case messages.CreateContainer:
		s.onCreate(ctx, m)
	case messages.PortForward:
		s.onForward(ctx, m)
	case messages.UpdatePod:
		s.onUpdate(ctx.Sender(), m)
	case messages.CheckpointPod:
		s.onCheckpoint(ctx.Sender(), m)
	case forContainer:
		if one, ok := m.m.(messages.CheckpointContainer); ok {
			s.onCheckpointContainer(ctx.Sender(), one)
			return
		}
		s.forward(ctx, m)
	case containerGone:
		s.onContainerGone(ctx, m)
	case containerStopped:
		s.onContainerStopped(m)
	case containerBack:
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
	return slices.Concat([]*waiters{&s.running, &s.stopping, &s.removing},
		callersOf(s.postponed, (*postponed).callers), callersOf(s.updates, (*podUpdate).callers),
		callersOf(s.captures, func(c **capture) *waiters { return &(*c).caller }))
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
	if next != messages.PodReady {
		s.endForwards()
	}
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
		Listed: s.state != messages.PodStarting, Past: s.plan.past(s.env),
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

func (s *sandbox) noun() string { return "pod " + podName(s.plan.Config) }

func (s *sandbox) attrs() []any { return []any{"pod", s.id} }

func (s *sandbox) record() func(podPlan, []string, bool) []byte {
	conf := s.conf
	return func(plan podPlan, done []string, complete bool) []byte {
		state := messages.PodStarting
		if complete && plan.Restore == "" { // else its containers are to come
			state = messages.PodReady
		}
		return encode(podRecord{Version: recordVersion, Config: conf, State: state, Done: done, Plan: plan})
	}
}

func (s *sandbox) present() ([]byte, bool) {
	again := s.state != messages.PodStarting && s.state != messages.PodRemoving
	return encode(s.recordNow()), again
}

func (s *sandbox) recordNow() podRecord {
	return podRecord{Version: recordVersion, Config: s.conf, State: s.state, Reason: s.reason, Done: slices.Clone(s.walk.Done), Plan: s.plan}
}

// putOff keeps a request until the pod knows what it has. One that comes when
// the pod has gone goes back to the node, which by then has unlinked the pod.
func (s *sandbox) putOff(sender *actor.PID, m any) {
	if !s.over {
		s.postponed = append(s.postponed, later(sender, m))
		return
	}
	if f, ok := m.(forContainer); ok {
		m = f.m
	}
	if r, ok := m.(restorePod); ok {
		m = r.RestorePod
	}
	if _, fact := m.(processFact); !fact {
		s.env.System.Root.RequestWithCustomSender(s.env.nodePID, m, sender)
	}
}

// --- starting ---

func (s *sandbox) onRun(ctx actor.Context, m messages.RunPod) {
	switch s.state {
	case "":
		s.running.join(ctx.Sender())
		s.begin(podPlan{Boot: s.env.Boot, Config: m.Config, Handler: m.Handler, ShmSize: m.ShmSize})
	case messages.PodStarting:
		if s.plan.Restore != "" {
			s.refuse(ctx.Sender())
			return
		}
		s.running.join(ctx.Sender())
	case messages.PodReady:
		s.env.reply(ctx.Sender(), s.id, nil)
	default:
		s.refuse(ctx.Sender())
	}
}

// begin takes the first step, of a new pod or of a restored one.
func (s *sandbox) begin(plan podPlan) {
	conf, err := proto.Marshal(plan.Config)
	if err != nil {
		panic(err) // it came out of the same library a moment ago
	}
	plan.ID, plan.CreatedAt = s.id, s.env.Clock.Now()
	s.conf, s.plan = conf, plan
	s.become(messages.PodStarting, "")
	s.forth()
}

// refuse answers who asks for a pod that is there and is not to be had.
func (s *sandbox) refuse(sender *actor.PID) {
	m := s.plan.Config.GetMetadata()
	s.env.reply(sender, nil, messages.Errorf(messages.Exists,
		"pod %s/%s attempt %d exists already as %s and is %s: remove it or raise the attempt",
		m.GetNamespace(), m.GetName(), m.GetAttempt(), s.id, s.state))
}

func (s *sandbox) arrived() {
	if s.plan.Restore != "" {
		s.restoreContainers()
		return
	}
	s.become(messages.PodReady, "")
	s.running.answer(s.env, s.id, nil)
	s.pauseExited()
}

func (s *sandbox) failed() { s.running.answer(s.env, nil, s.first) }

// --- going back ---

// returned ends a way back: it is tried again without end while something is
// left, because what is given up leaks.
func (s *sandbox) returned(to phase, err error) {
	if err != nil {
		s.stuck(err)
		return
	}
	if to == onRemove {
		s.gone()
		return
	}
	s.plan.Namespaces, s.plan.IPs = messages.Namespaces{}, nil
	reason := "stopped"
	if s.plan.past(s.env) {
		reason = nodeRestarted
	}
	s.become(messages.PodNotReady, reason)
	s.journal()
	s.stopping.answer(s.env, messages.None{}, nil)
	if len(s.removing) > 0 {
		s.beginRemoval()
	}
}

func (s *sandbox) stuck(err error) {
	err = fmt.Errorf("%s: %w", s.noun(), err)
	s.failed()
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
	s.again(s.goOn)
}

// gone: nothing is left on the node. The node actor unlinks the pod, and only
// then are the callers answered: the name is free when they hear of it.
func (s *sandbox) gone() {
	s.over = true
	last, _ := s.env.Index.pod(s.id)
	s.env.Index.dropPod(s.id)
	for _, id := range s.env.Index.containerIDs(s.id) { // listed as recorded, when the pod's own record was lost
		s.env.Index.dropContainer(id)
	}
	s.env.send(s.env.events, podChanged{pod: s.id, from: s.state, to: "", at: s.env.Clock.Now(), last: last})
	s.env.send(s.env.nodePID, podGone{pod: s.id, callers: append(s.stopping, s.removing...), starters: s.running, err: s.first})
	s.running, s.stopping, s.removing = nil, nil, nil
}

// --- stopping and removing ---

func (s *sandbox) onStop(sender *actor.PID) {
	switch s.state {
	case messages.PodStarting:
		s.stopping.join(sender)
		s.end(s.wasEnded("stopped"))
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
		s.end(s.wasEnded("removed"))
	case messages.PodReady:
		s.beginStop()
	case messages.PodNotReady:
		s.beginRemoval()
	}
}

func (s *sandbox) wasEnded(how string) error {
	return messages.Errorf(messages.Canceled, "%s was %s while it was starting", s.noun(), how)
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
	if s.travelling() {
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

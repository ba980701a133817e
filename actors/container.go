package actors

import (
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
)

// The container actor's states and what each does on what:
//
//	in        on                     does                                      to
//	(spawned) CreateContainer        the first step                            creating
//	(spawned) adopt                  asks the monitor for the truth            any
//	creating  CreateContainer        joins the waiters                         creating
//	creating  step done              next; after the last, answers             creating, created
//	creating  step failed, Stop,     cancels, undoes all, answers the error    gone; exited
//	          Remove                                                           if an undo failed
//	created   StartContainer         starts the process                        starting
//	starting  started / failed       answers                                   running / stopping
//	running   StartContainer         answers: the retry of a lost answer       running
//	created,  StopContainer          signal, grace, SIGKILL until it dies      stopping
//	running
//	stopping  StopContainer          joins; a shorter grace tightens           stopping
//	any       the process exited     takes down how, answers who waited        exited
//	any       RemoveContainer        kills, undoes all                         removing → gone
//	running   ExecSync, ExecStream,  opens a session                           running
//	          Attach
//	running   ReopenLog              asks the monitor                          running
//	created,  UpdateContainer        sets the resources, one after another     same
//	starting,
//	running
//	any       anything else          refuses: FailedPrecondition               same
var containerEdges = map[messages.ContainerState][]messages.ContainerState{
	"":                         {messages.ContainerCreating, messages.ContainerCreated, messages.ContainerRunning, messages.ContainerExited, messages.ContainerRemoving},
	messages.ContainerCreating: {messages.ContainerCreated, messages.ContainerExited},
	messages.ContainerCreated:  {messages.ContainerStarting, messages.ContainerStopping, messages.ContainerExited},
	messages.ContainerStarting: {messages.ContainerRunning, messages.ContainerStopping, messages.ContainerExited},
	messages.ContainerRunning:  {messages.ContainerStopping, messages.ContainerExited},
	messages.ContainerStopping: {messages.ContainerExited},
	messages.ContainerExited:   {messages.ContainerRemoving},
	messages.ContainerRemoving: {},
}

// container owns a container: its root, bundle and process, by way of its steps.
type container struct {
	trip[containerPlan]
	id, pod string
	state   messages.ContainerState
	since   time.Time
	conf    []byte
	process messages.ProcessState

	relabelled      int64 // files of its volumes, so far
	reason, message string
	trouble         string // of the last undo that failed
	startErr        error  // why its command could not be started
	telling         bool   // plugins are being told of its exit

	creating, starting, stopping, removing, reopening waiters
	kill                                              kill
	adopted                                           bool
	overtook                                          *messages.ProcessState // an exit told while the process was looked for
	postponed                                         []postponed            // requests that came meanwhile

	updates   []update // of its resources, in order; the first is under way
	updating  bool     // a job of an update is under way
	unsettled bool     // its limits may not be the recorded ones
}

// createFirst is CreateContainer with what the pod knows.
type createFirst struct {
	req     messages.CreateContainer
	pod     podPlan
	restore string // a pod's checkpoint to make it of
}

// adoptContainer hands a container its record after the daemon's death.
type adoptContainer struct {
	rec containerRecord
	pod podPlan
}

// killForPod stops a container without grace because its pod stops.
type killForPod struct{}

// processFact is what the monitor says of a process.
type processFact struct{ messages.ProcessState }

func newContainer(env *Env, pod, id string) actor.Producer {
	return func() actor.Actor {
		c := &container{id: id, pod: pod}
		c.trip = trip[containerPlan]{crew: crew{env: env}, who: c, place: backends.Key{Pod: pod, Container: id}, walk: walk[containerPlan]{steps: containerSteps}}
		return c
	}
}

// Receive implements actor.Actor.
func (c *container) Receive(ctx actor.Context) {
	if c.over && c.putOff(ctx.Sender(), ctx.Message()) || c.state == "" && c.postpone(ctx.Sender(), ctx.Message()) {
		return
	}
	switch m := ctx.Message().(type) {
	case *actor.Started:
		c.start(c.env, ctx, c.id)
		if c.env.Index.acts(c.self.Id) { // a restart after a panic
			c.reread()
		} else {
			c.env.Index.putActor(messages.ActorInfo{Path: c.self.Id, Kind: "container", State: "new", Since: c.env.Clock.Now()})
		}
	case *actor.Stopping, *actor.Restarting:
		c.handled(m)
		settle(c.env, c.self, c)
	case adoptContainer:
		c.adopt(m)
	case noRecord:
		c.discard(m.pod)
	case createFirst:
		c.onCreate(ctx.Sender(), m)
	case messages.CreateContainer:
		c.onCreateAgain(ctx.Sender())
	case messages.StartContainer:
		c.onStart(ctx.Sender())
	case messages.StopContainer:
		c.onStop(ctx.Sender(), m.Grace)
	case killForPod:
		c.onStop(nil, 0)
		c.sayEnded() // again: the pod asks because it has not heard it
	case messages.RemoveContainer:
		c.onRemove(ctx.Sender())
	case messages.ExecSync:
		c.onExec(ctx, m)
	case messages.ExecStream:
		c.onExecStream(ctx, m)
	case messages.Attach:
		c.onAttach(ctx, m)
	case messages.ReopenLog:
		c.onReopen(ctx.Sender())
	case messages.UpdateContainer:
		c.onUpdate(ctx.Sender(), m)
	case processFact:
		c.onFact(m.ProcessState)
	case relabelled:
		c.onRelabelled(m)
	case *actor.Stopped:
		c.env.Index.dropActor(c.self.Id)
	case *actor.Terminated, messages.Abandon: // a session ended; nobody waits here without us knowing
	default:
		if !c.handled(m) {
			unexpected(c.env, ctx, string(c.state))
		}
	}
}

func (c *container) debts() []*waiters {
	return slices.Concat([]*waiters{&c.creating, &c.starting, &c.stopping, &c.removing, &c.reopening},
		callersOf(c.postponed, (*postponed).callers), callersOf(c.updates, (*update).callers))
}

// become is the only place that changes the state; see sandbox.become.
func (c *container) become(next messages.ContainerState) {
	if next != c.state && !slices.Contains(containerEdges[c.state], next) {
		panic(fmt.Sprintf("container %s: no edge from %q to %q", c.id, c.state, next))
	}
	now, from := c.env.Clock.Now(), c.state
	took := sinceOf(now, c.since)
	c.env.Log.Info("container", "pod", c.pod, "container", c.id, "from", string(from), "to", string(next), "took", took, reasonAttr(c.reason))
	c.past = c.past.with(messages.Edge{At: now, From: string(from), To: string(next), Took: took, Err: c.reason})
	c.state, c.since = next, now
	c.publish()
	c.env.send(c.env.events, containerChanged{pod: c.pod, container: c.id, from: from, to: next, at: now})
	if from == "" {
		c.resume()
	}
	c.sayEnded()
}

// sayEnded tells the pod that the container does not run any more, once plugins
// have heard it: they hear of the pod's own stop after that.
func (c *container) sayEnded() {
	if !c.telling && !c.mayLive() && (c.state == messages.ContainerExited || c.state == messages.ContainerRemoving) {
		c.env.send(c.parent(), containerStopped{id: c.id})
	}
}

// mayLive: it has or had a process whose end nobody has seen. One whose creation
// failed, or whose record is lost, is shown as exited or removing all the same.
func (c *container) mayLive() bool {
	ended := c.process.Status == messages.ProcessExited || c.process.Status == messages.ProcessGone
	return !ended && slices.Contains(c.walk.Done, stepProcess)
}

func (c *container) publish() {
	c.env.Index.putContainer(c.snapshot())
	c.env.Index.putActor(messages.ActorInfo{Path: c.self.Id, Kind: "container", State: string(c.state), Since: c.since, Step: c.activity(), Owns: c.owns()})
}

func (c *container) snapshot() *messages.ContainerSnapshot {
	trouble := c.trouble
	if trouble == "" && c.first != nil {
		trouble = c.first.Error()
	}
	step := c.activity()
	if step == "" && c.unsettled {
		step = stepTakeBack // soon
	}
	return &messages.ContainerSnapshot{
		ID: c.id, Pod: c.pod, Config: c.plan.Config, ImageID: c.plan.Image.ID, ImageRef: c.plan.Config.GetImage().GetImage(),
		StopSignal: c.plan.Bundle.StopSignal, CreatedAt: c.plan.CreatedAt, StartedAt: c.process.StartedAt,
		FinishedAt: c.process.ExitedAt, State: c.state, Pid: c.process.Pid, ExitCode: c.process.ExitCode,
		Reason: c.reason, Message: c.message, LogPath: c.plan.Bundle.LogPath,
		VolumeImages: c.plan.volumeImages(), Mounts: c.plan.shownMounts(),
		Activity: messages.Activity{Step: step, Since: c.since, Error: trouble}, Timeline: c.past,
		User: c.plan.Bundle.User, Listed: c.state != messages.ContainerCreating,
	}
}

func (c *container) owns() []string {
	var o []string
	if slices.Contains(c.walk.Done, "rootfs") {
		o = append(o, "mount:"+c.plan.Rootfs)
	}
	if c.process.Pid != 0 && c.state != messages.ContainerExited {
		o = append(o, fmt.Sprintf("pid:%d", c.process.Pid))
	}
	return o
}

// parent is the pod's actor; there is no other way to it after a restart.
func (c *container) parent() *actor.PID { return parentOf(c.env, c.self) }

func (c *container) noun() string { return "container " + c.plan.Config.GetMetadata().GetName() }

func (c *container) attrs() []any { return []any{"pod", c.pod, "container", c.id} }

func (c *container) record() func(containerPlan, []string, bool) []byte {
	rec := containerRecord{Version: recordVersion, Config: c.conf, State: messages.ContainerCreating}
	return func(plan containerPlan, done []string, complete bool) []byte {
		rec.Plan, rec.Done = plan, done
		if complete {
			rec.State = messages.ContainerCreated
		}
		return encode(rec)
	}
}

// present is the record now. How the process is, the monitor knows better,
// while it can be asked.
func (c *container) present() ([]byte, bool) {
	again := c.state != messages.ContainerCreating && c.state != messages.ContainerRemoving
	return encode(c.recordNow()), again
}

func (c *container) recordNow() containerRecord {
	return containerRecord{
		Version: recordVersion, Config: c.conf, State: c.state, Done: slices.Clone(c.walk.Done), Plan: c.plan,
		Process: c.process, Reason: c.reason, Message: c.message, Updating: c.unsettled,
	}
}

// --- creating ---

func (c *container) onCreate(sender *actor.PID, m createFirst) {
	if c.state != "" {
		c.onCreateAgain(sender)
		return
	}
	conf, err := proto.Marshal(m.req.Config)
	if err != nil {
		panic(err)
	}
	c.conf = conf
	c.plan = containerPlan{ID: c.id, Pod: c.pod, Config: m.req.Config, CreatedAt: c.env.Clock.Now(), Restore: m.restore, pod: m.pod}
	c.creating.join(sender)
	c.become(messages.ContainerCreating)
	name := m.req.Config.GetImage().GetImage()
	img, ok := c.env.Index.takeImage(name, c.id)
	if !ok {
		c.first = messages.Errorf(messages.NotFound, "container %s: image %q is not on this node: pull it first", m.req.Config.GetMetadata().GetName(), name)
		c.gone()
		return
	}
	if img.Artifact {
		c.first = messages.Errorf(messages.Precondition, "container %s: %q is an OCI artifact, not an image to make a container of: mount it as an image volume", m.req.Config.GetMetadata().GetName(), name)
		c.gone()
		return
	}
	c.plan.Image = img
	if c.first = c.takeVolumes(); c.first != nil {
		c.gone()
		return
	}
	env, self := c.env, c.self
	c.plan.progress = func(files int64) { env.send(self, relabelled{files}) }
	c.forth()
}

// onCreateAgain answers a retry: it joins the attempt under way.
func (c *container) onCreateAgain(sender *actor.PID) {
	switch c.state {
	case messages.ContainerCreating:
		c.creating.join(sender)
	case messages.ContainerCreated:
		c.env.reply(sender, c.id, nil)
	default:
		m := c.plan.Config.GetMetadata()
		c.env.reply(sender, nil, messages.Errorf(messages.Exists, "container %s attempt %d exists already as %s and is %s: remove it or raise the attempt",
			m.GetName(), m.GetAttempt(), c.id, c.state))
	}
}

func (c *container) arrived() {
	c.takeAdjusted()
	c.become(messages.ContainerCreated)
	c.creating.answer(c.env, c.id, nil)
	c.tellRestorer()
}

func (c *container) failed() {
	c.creating.answer(c.env, nil, c.first)
	c.tellRestorer()
}

// --- going back ---

// returned ends a way back: it is tried again without end while something is
// left, because what is given up leaks.
func (c *container) returned(_ phase, err error) {
	if err == nil {
		c.gone()
		return
	}
	err = fmt.Errorf("%s: %w", c.noun(), err)
	c.trouble = err.Error()
	c.failed()
	c.stopping.answer(c.env, nil, err)
	c.removing.answer(c.env, nil, err)
	if c.state == messages.ContainerCreating { // shown, so that the kubelet can ask for its removal
		c.reason, c.message = reasonStartError, c.first.Error()
		c.process.ExitCode, c.process.ExitedAt = startErrorCode, c.env.Clock.Now()
		c.become(messages.ContainerExited)
		c.become(messages.ContainerRemoving)
		c.journal()
	} else {
		c.publish()
		c.sayEnded() // of its process nothing may be left
	}
	c.again(func() { c.unwind(onRemove, false) })
}

// gone: nothing is left; the pod unlinks this actor and answers the callers.
func (c *container) gone() {
	c.over = true
	c.resume() // they go back to the pod
	c.env.Index.dropContainer(c.id)
	pod, _ := c.env.Index.pod(c.pod)
	c.env.send(c.env.events, containerChanged{pod: c.pod, container: c.id, from: c.state, to: "", at: c.env.Clock.Now(), last: pod})
	c.env.send(c.parent(), containerGone{id: c.id, callers: append(c.stopping, c.removing...), started: c.creating, err: c.first})
	c.creating, c.stopping, c.removing = nil, nil, nil
}

// postpone keeps what only a container that knows its state can answer, until
// it does: after a restart of the daemon nobody is refused for asking early. A
// stop and a removal are taken in at once.
func (c *container) postpone(sender *actor.PID, m any) bool {
	_, request := m.(messages.Addressed)
	_, takes := m.(messages.Taking)
	if !request || takes {
		return false
	}
	c.postponed = append(c.postponed, later(sender, m))
	return true
}

// resume deals with what was postponed.
func (c *container) resume() {
	for _, p := range c.postponed {
		c.env.System.Root.RequestWithCustomSender(c.self, p.m, p.sender())
	}
	c.postponed = nil
}

// putOff sends a request that comes when the container has gone back to the
// pod, which by then has unlinked it.
func (c *container) putOff(sender *actor.PID, m any) bool {
	if first, ok := m.(createFirst); ok {
		m = first.req
	}
	req, ok := m.(messages.Addressed)
	if !ok {
		return false
	}
	if _, create := req.(messages.CreateContainer); !create {
		m = forContainer{id: c.id, m: req}
	}
	c.env.System.Root.RequestWithCustomSender(c.parent(), m, sender)
	return true
}

func (c *container) onRemove(sender *actor.PID) {
	c.removing.join(sender)
	switch c.state {
	case messages.ContainerCreating:
		c.abort(c.wasEnded("removed"))
	case messages.ContainerExited:
		c.beginRemoval()
	case messages.ContainerRemoving:
	default:
		c.onStop(nil, 0) // it is removed when its exit is known
		c.kill.remove = true
	}
}

func (c *container) wasEnded(how string) error {
	return messages.Errorf(messages.Canceled, "%s was %s while it was created", c.noun(), how)
}

func (c *container) beginRemoval() {
	c.become(messages.ContainerRemoving)
	c.journal()
	c.unwind(onRemove, false)
}

package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podUpdate is a request that waits for its turn.
type podUpdate struct {
	caller waiters
	req    messages.UpdatePod
}

func (u *podUpdate) callers() *waiters { return &u.caller }

// onUpdate takes down what a pod's resources are now. The kubelet asks for it
// when it has changed the pod's cgroup itself (cri-api); a cgroup of ours, of a
// pod that came without one, is limited here.
func (s *sandbox) onUpdate(sender *actor.PID, m messages.UpdatePod) {
	if err := s.mayUpdate(); err != nil {
		s.env.reply(sender, nil, err)
		return
	}
	u := podUpdate{req: m}
	u.caller.join(sender)
	s.updates = append(s.updates, u)
	if len(s.updates) == 1 {
		s.nextUpdate()
	}
}

func (s *sandbox) mayUpdate() error {
	if s.state == messages.PodReady || s.state == messages.PodNotReady {
		return nil
	}
	return messages.Errorf(messages.Precondition, "pod %s is %s: its resources cannot be updated", s.id, s.state)
}

// nextUpdate does the first update in the queue.
func (s *sandbox) nextUpdate() {
	for len(s.updates) > 0 {
		if err := s.mayUpdate(); err == nil {
			s.tryUpdate(s.updates[0].req)
			return
		} else {
			s.answerUpdate(err)
		}
	}
}

func (s *sandbox) answerUpdate(err error) {
	u := s.updates[0]
	s.updates = slices.Clone(s.updates[1:])
	u.caller.answer(s.env, messages.None{}, err)
}

func (s *sandbox) tryUpdate(m messages.UpdatePod) {
	plan := s.plan
	plan.Config = withPodResources(s.plan.Config, m)
	conf, err := proto.Marshal(plan.Config)
	if err != nil {
		panic(err) // it came out of the same library a moment ago
	}
	before, env, place, state := s.recordNow(), s.env, s.place, s.state
	after := before
	after.Config, after.Plan = conf, plan
	s.do(Job{Lane: LaneStart, Name: stepUpdate, Limit: untilOf(env, m.Until())}, func(ctx context.Context) (any, error) {
		if err := env.Node.Plugins.UpdatePod(ctx, plan.forPlugins()); err != nil {
			return nil, err
		}
		if err := env.Node.Cgroups.Update(ctx, place.Pod, plan.Cgroup, plan.limits()); err != nil {
			return nil, err
		}
		if err := env.Node.Journal.Save(ctx, place, encode(after)); err != nil {
			return nil, err
		}
		env.Node.Plugins.UpdatedPod(ctx, plan.forPlugins())
		return nil, nil
	}, func(d done) {
		s.past = s.past.took(s.env.Clock.Now(), d.name, d.took, d.err)
		if d.err != nil {
			s.takeUpdateBack(encode(before), fmt.Errorf("%s: update resources: %w", s.noun(), d.err))
			return
		}
		s.plan.Config, s.conf = plan.Config, conf
		s.publish()
		if s.state != state { // the record of that has the old resources
			s.journal()
		}
		s.answerUpdate(nil)
		s.nextUpdate()
	})
}

// takeUpdateBack makes the node what is shown. It is tried once: the cgroup is
// ours only for pods without a kubelet, and the next update sets it anew.
func (s *sandbox) takeUpdateBack(record []byte, first error) {
	env, place, plan := s.env, s.place, s.plan
	s.do(Job{Lane: LaneStop, Name: stepTakeBack, Limit: env.Settings.UndoLimit}, func(ctx context.Context) (any, error) {
		return nil, errors.Join(env.Node.Cgroups.Update(ctx, place.Pod, plan.Cgroup, plan.limits()), env.Node.Journal.Save(ctx, place, record))
	}, func(d done) {
		if d.err != nil {
			s.env.Log.Warn("an update of a pod's resources could not be taken back", "pod", s.id, "err", d.err)
			first = fmt.Errorf("%w; it could not be taken back: %w", first, d.err)
			s.journal() // which is tried until it is written
		} else if s.state != messages.PodReady && s.state != messages.PodNotReady {
			s.journal()
		}
		s.answerUpdate(first)
		s.nextUpdate()
	})
}

func withPodResources(old *runtime.PodSandboxConfig, m messages.UpdatePod) *runtime.PodSandboxConfig {
	next := proto.Clone(old).(*runtime.PodSandboxConfig)
	if next.Linux == nil {
		next.Linux = &runtime.LinuxPodSandboxConfig{}
	}
	if m.Overhead != nil {
		next.Linux.Overhead = messages.Resized(next.Linux.Overhead, m.Overhead)
	}
	if m.Resources != nil {
		next.Linux.Resources = messages.Resized(next.Linux.Resources, m.Resources)
	}
	return next
}

// limits is what the whole pod may use: its containers and what it costs itself.
func (p *podPlan) limits() *runtime.LinuxContainerResources {
	return messages.Together(p.Config.GetLinux().GetResources(), p.Config.GetLinux().GetOverhead())
}

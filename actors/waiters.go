package actors

import (
	"slices"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// debtor is an actor that owes answers. When an instance ends before it could
// give them (a panic, the end of the daemon), it says so to everybody who
// waits: nobody waits for what will never come. The request itself may have
// had its effect; whoever asks again joins it. The waiters are the actor's own,
// not copies: an instance that is told to restart and then to stop settles
// twice, and whoever was answered must be forgotten.
type debtor interface{ debts() []*waiters }

// Owes says whether an actor will answer sender itself when it ends; the
// supervisor asks, so that nobody is answered twice.
func Owes(a actor.Actor, sender *actor.PID) bool {
	if o, ok := a.(interface{ Owes(*actor.PID) bool }); ok { // it stands before another
		return o.Owes(sender)
	}
	d, ok := a.(debtor)
	return ok && slices.ContainsFunc(d.debts(), func(w *waiters) bool { return w.has(sender) })
}

// Carried are those a message of ours answers when it is dealt with; the
// supervisor answers them when that ends in a panic.
func Carried(message any) (callers []*actor.PID) {
	if d, ok := message.(debtor); ok {
		for _, w := range d.debts() {
			callers = append(callers, *w...)
		}
	}
	return callers
}

func (m podGone) debts() []*waiters       { return []*waiters{&m.callers, &m.starters} }
func (m containerGone) debts() []*waiters { return []*waiters{&m.callers, &m.started} }
func (m pullDone) debts() []*waiters      { return []*waiters{&m.callers} }

// settle answers all that an ending instance owes.
func settle(env *Env, self *actor.PID, d debtor) {
	for _, w := range d.debts() {
		w.answer(env, nil, messages.Errorf(messages.Unavailable, "%s ends or starts anew from its journal before it could answer: ask again", self.Id))
	}
}

// waiters are senders who get the same answer.
type waiters []*actor.PID

func (w *waiters) join(sender *actor.PID) {
	if sender != nil {
		*w = append(*w, sender)
	}
}

// postponed is a request that is kept for later.
type postponed struct {
	caller waiters
	m      any
}

func later(sender *actor.PID, m any) postponed {
	p := postponed{m: m}
	p.caller.join(sender)
	return p
}

// sender is nil if it was answered meanwhile.
func (p *postponed) sender() *actor.PID {
	if len(p.caller) == 0 {
		return nil
	}
	return p.caller[0]
}

// callersOf are those who wait for the requests in a list.
func callersOf[T any](list []T, caller func(*T) *waiters) (all []*waiters) {
	for i := range list {
		all = append(all, caller(&list[i]))
	}
	return all
}

func (p *postponed) callers() *waiters { return &p.caller }

// answer replies to all and forgets them.
func (w *waiters) answer(env *Env, value any, err error) {
	for _, pid := range *w {
		env.reply(pid, value, err)
	}
	*w = nil
}

// has says whether somebody waits already.
func (w *waiters) has(sender *actor.PID) bool {
	return sender != nil && slices.ContainsFunc(*w, func(pid *actor.PID) bool { return pid.Equal(sender) })
}

// leave forgets one; it says whether it waited.
func (w *waiters) leave(caller *actor.PID) bool {
	for i, pid := range *w {
		if pid.Equal(caller) {
			*w = append((*w)[:i:i], (*w)[i+1:]...)
			return true
		}
	}
	return false
}

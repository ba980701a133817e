package actors

import "github.com/asynkron/protoactor-go/actor"

// waiters are senders who get the same answer.
type waiters []*actor.PID

func (w *waiters) join(sender *actor.PID) {
	if sender != nil {
		*w = append(*w, sender)
	}
}

// answer replies to all and forgets them.
func (w *waiters) answer(env *Env, value any, err error) {
	for _, pid := range *w {
		env.reply(pid, value, err)
	}
	*w = nil
}

// leave forgets one by the name of its reply process; it says whether it waited.
func (w *waiters) leave(caller string) bool {
	for i, pid := range *w {
		if pid.Id == caller {
			*w = append((*w)[:i:i], (*w)[i+1:]...)
			return true
		}
	}
	return false
}

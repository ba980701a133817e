package simulations

import (
	"strings"

	"github.com/asynkron/protoactor-go/actor"
)

// mailbox hands over one message a turn: system messages first, user messages
// in order and not while suspended. It puts itself on the world's list when it
// has something; the world draws whose turn it is.
type mailbox struct {
	w         *World
	life      *life
	container string // whose actor's it is, or that of a session in it
	images    bool   // it is of the images, a pull or a layer
	user      []any
	system    []any
	suspended bool
	listed    bool
	invoker   actor.MessageInvoker
}

var _ actor.Mailbox = (*mailbox)(nil)

func newMailbox(w *World, l *life, path string) *mailbox {
	m := &mailbox{w: w, life: l}
	parts := strings.Split(path, "/") // node/sandbox-<id>/<container>
	if m.images = len(parts) > 1 && parts[1] == "images"; !m.images && len(parts) > 2 {
		m.container = parts[2]
	}
	return m
}

func (m *mailbox) PostUserMessage(message any) {
	m.user = append(m.user, message)
	m.list()
}

func (m *mailbox) PostSystemMessage(message any) {
	m.system = append(m.system, message)
	m.list()
}

func (m *mailbox) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	m.invoker = invoker
}

func (m *mailbox) Start() { m.list() }

func (m *mailbox) UserMessageCount() int { return len(m.user) }

func (m *mailbox) alive() bool {
	if m.life.dead {
		m.listed = false
		return false
	}
	return true
}

func (m *mailbox) list() {
	if !m.listed && m.invoker != nil && !m.life.dead && (len(m.system) > 0 || (len(m.user) > 0 && !m.suspended)) {
		m.listed = true
		m.w.ready = append(m.w.ready, m)
	}
}

func (m *mailbox) turn() {
	m.listed = false
	m.w.pulled = m.w.pulled || m.images
	if m.container != "" {
		m.w.acted[m.container] = true
	}
	defer m.list()
	var message any
	defer func() {
		if r := recover(); r != nil {
			m.invoker.EscalateFailure(r, message)
		}
	}()
	if len(m.system) > 0 {
		message, m.system = m.system[0], m.system[1:]
		switch message.(type) {
		case *actor.SuspendMailbox:
			m.suspended = true
		case *actor.ResumeMailbox:
			m.suspended = false
		default:
			m.invoker.InvokeSystemMessage(message)
		}
		return
	}
	if len(m.user) > 0 && !m.suspended {
		message, m.user = m.user[0], m.user[1:]
		m.invoker.InvokeUserMessage(message)
	}
}

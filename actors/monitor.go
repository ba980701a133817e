package actors

import (
	"context"
	"errors"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/messages"
)

// monitor keeps the connection to troupe-monitor: it is started when absent
// and taken up when present, and what it says of processes goes to their
// actors. Commands do not pass through here; they fail while there is no
// connection and are tried again by whom they matter to.
type monitor struct {
	crew
	tries      int
	connection uint64 // the number of the present one; 0: none
}

// connected says that the states of all processes have been told.
type connected struct{ connection uint64 }

func newMonitor(env *Env) actor.Producer {
	return func() actor.Actor { return &monitor{crew: crew{env: env}} }
}

// Receive implements actor.Actor.
func (m *monitor) Receive(ctx actor.Context) {
	switch msg := ctx.Message().(type) {
	case *actor.Started:
		m.start(m.env, ctx, "monitor")
		m.connect()
	case *actor.Stopped:
		m.env.Index.dropActor(ctx.Self().Id)
	case connected:
		if msg.connection == m.connection {
			m.tries = 0
			m.show("connected", messages.Condition{OK: true})
		}
	default:
		if !m.handled(msg) {
			unexpected(m.env, ctx, "")
		}
	}
}

func (m *monitor) connect() {
	m.show("connecting", messages.Condition{Reason: "MonitorNotConnected", Message: "troupe is connecting to troupe-monitor"})
	env, self, node := m.env, m.self, m.env.nodePID
	fact := func(st messages.ProcessState) { env.send(node, processFact{st}) }
	n := env.next()
	m.connection = n
	m.do(Job{Lane: LaneWatch, Name: "connection"}, func(ctx context.Context) (any, error) {
		return nil, env.Node.Runtime.Connect(ctx, fact, func() { env.send(self, connected{n}) })
	}, m.lost)
}

// lost tries again, soon at first: the processes live on without us.
func (m *monitor) lost(d done) {
	m.connection = 0
	if errors.Is(d.err, context.Canceled) {
		return
	}
	text := "the connection ended"
	if d.err != nil {
		text = d.err.Error()
	}
	m.env.Log.Error("no connection to troupe-monitor", "err", text, "try", m.tries)
	m.show("lost", messages.Condition{Reason: "MonitorNotConnected", Message: text})
	m.after(backoff(m.env.Settings, m.tries), m.connect)
	m.tries++
}

func (m *monitor) show(state string, c messages.Condition) {
	m.env.Index.putRuntime(c)
	m.env.Index.putActor(messages.ActorInfo{Path: m.self.Id, Kind: "monitor", State: state, Since: m.env.Clock.Now()})
}

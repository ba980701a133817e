package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/troupe-run/troupe/actors"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
)

// Config is what a tree is made of.
type Config struct {
	Node     *backends.Node
	Log      *slog.Logger
	Limits   Limits
	Settings actors.Settings
	Boot     string // names this boot of the node; "": not known
}

// Tree is the running actor system:
//
//	node ─┬─ sandbox-<id>* ─┬─ <container id>* ── exec-<n>*, attach-<n>*
//	      │                 └─ forward-<n>*
//	      ├─ images ─┬─ pull-<n>*
//	      │          └─ layer-<digest>*
//	      ├─ monitor    the connection to troupe-monitor
//	      ├─ network    CNI configuration, STATUS, GC
//	      ├─ events     fan-out
//	      └─ sweeper    what the node holds that no actor owns
type Tree struct {
	env     *actors.Env
	system  *actor.ActorSystem
	node    *actor.PID
	events  *actor.PID
	workers *workers
	stop    context.CancelFunc
	closing atomic.Bool
	ended   chan struct{} // closed when the node actor is no more
	endOnce sync.Once
	number  atomic.Uint64
}

// Start spawns the tree and returns when every pod in the journal is listed;
// they recover side by side from then on.
func Start(ctx context.Context, c Config) (*Tree, error) {
	index, system := actors.NewIndex(), newSystem(c.Log)
	work, stop := context.WithCancel(context.Background())
	t := &Tree{system: system, workers: newWorkers(work, c.Limits), stop: stop, ended: make(chan struct{})}
	strategy := &Strategy{
		Log: c.Log, Index: index, Clock: clock{}, Max: 5, Window: time.Minute,
		WaitMin: c.Settings.RetryMin, WaitMax: c.Settings.RetryMax, GaveUp: t.gaveUp,
	}
	t.env = &actors.Env{
		Clock: clock{}, NewID: newID, Jobs: t.workers, System: system, Log: c.Log, Node: c.Node, Index: index, Settings: c.Settings, Boot: c.Boot,
		Props: Props(c.Log, index, strategy, unbounded),
	}
	ready := make(chan error, 1)
	var err error
	if t.node, err = system.Root.SpawnNamed(t.env.Props("node", actors.NewNode(t.env, first(ready))), "node"); err != nil {
		stop()
		return nil, fmt.Errorf("spawn the node actor: %w", err)
	}
	t.events = actor.NewPID(t.node.Address, t.node.Id+"/events")
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = fmt.Errorf("the journal was not read in time: %w", ctx.Err())
	}
	if err != nil {
		_ = t.Shutdown(ctx)
		return nil, err
	}
	return t, nil
}

// first keeps the first answer only: the node actor tells again after a panic.
func first(ready chan<- error) func(error) {
	return func(err error) {
		select {
		case ready <- err:
		default:
		}
	}
}

// gaveUp hears of each actor that panics too often. Without the node actor
// nothing can be asked any more.
func (t *Tree) gaveUp(path string) {
	if path == "node" {
		t.end()
	}
}

func (t *Tree) end() { t.endOnce.Do(func() { close(t.ended) }) }

// Ended is closed when the tree can answer nothing any more: after Shutdown, or
// because its root was given up after repeated panics. Then the daemon must end,
// so that the service manager starts it anew; containers live on.
func (t *Tree) Ended() <-chan struct{} { return t.ended }

// View is read access to what the actors have published.
func (t *Tree) View() messages.View { return t.env.Index }

// newID is 256 random bits in hex, the form of all CRI runtimes.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

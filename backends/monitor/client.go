// Package monitor is the daemon's side of troupe-monitor, the parent of all
// container processes: it starts the monitor when there is none, talks to it,
// and comes back to it after the daemon's own restart. It implements
// backends.Runtime and knows nothing of how containers are run.
package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

// Config says where the monitor is and how it is started.
type Config struct {
	// Binary is the monitor's program. Empty: troupe-monitor beside the
	// daemon's own executable, else in PATH.
	Binary string
	// Dir is the monitor's directory: socket, lock, state, its log. One
	// monitor serves one directory. It should not survive a reboot (/run).
	Dir string
	// CgroupManager is "cgroupfs" or "systemd".
	CgroupManager string
	// StartTimeout is how long a new monitor may take until it answers; 0: 10 s.
	StartTimeout time.Duration
	// ReconnectWait is how long a call waits for a connection that is being
	// made before it is Unavailable, if its context allows; 0: 5 s.
	ReconnectWait time.Duration
	// Patience is how long a monitor may live and answer nothing before it is
	// killed; 0: 1 min.
	Patience time.Duration
	// Handlers are the OCI runtimes that containers can be made with, by the
	// name of the runtime handler. Others than Builtin and these are refused.
	Handlers map[string]wire.Runtime
	Log      *slog.Logger
}

// CgroupMark is the extended attribute of containers' cgroups that says whose
// they are: "<pod> <container> <Config.Dir>".
const CgroupMark = wire.CgroupMark

// Builtin is the handler that needs no program: libcontainer in the monitor.
// A request that names no handler means it as well.
const Builtin = "libcontainer"

// Client is a backends.Runtime whose processes are the monitor's.
type Client struct {
	cfg Config

	mu      sync.Mutex
	session *session      // nil: not connected
	changed chan struct{} // closed and replaced when session changes
	tried   bool          // Connect was called
	lastErr error         // why there is no session
}

var _ backends.Runtime = (*Client)(nil)

// New makes a client; Connect connects it.
func New(cfg Config) *Client {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 10 * time.Second
	}
	if cfg.ReconnectWait == 0 {
		cfg.ReconnectWait = 5 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.CgroupManager == "" {
		cfg.CgroupManager = "cgroupfs"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, changed: make(chan struct{})}
}

func (c *Client) socket() string { return filepath.Join(c.cfg.Dir, "monitor.sock") }

// Connect makes sure that the monitor runs, tells the state of every process
// it has, calls ready, then tells each exit, and returns when the connection
// or ctx ends. The error's kind is Unavailable, or that of ctx.
func (c *Client) Connect(ctx context.Context, fact func(messages.ProcessState), ready func()) error {
	c.mu.Lock()
	c.tried = true
	c.mu.Unlock()
	s, err := c.dialOrStart(ctx)
	if err != nil {
		c.lose(nil, err)
		return err
	}
	defer s.close()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	body, err := s.call(ctx, wire.OpWatch, nil)
	var states []wire.State
	if err == nil {
		err = json.Unmarshal(body, &states)
	}
	if err != nil {
		err = fmt.Errorf("learn what the monitor has: %w", err)
		c.lose(nil, err)
		return err
	}
	tell := func(st wire.State) {
		if known(st) {
			fact(processState(st))
			return
		}
		c.cfg.Log.Error("troupe-monitor tells a state that is not known: is it of another version?", "pod", st.Pod, "container", st.Container, "state", st.Status)
	}
	for _, st := range states {
		tell(st)
	}
	c.have(s)
	ready()
	go c.watch(s)
	for st, ok := s.nextEvent(); ok; st, ok = s.nextEvent() {
		tell(st)
	}
	err = messages.Errorf(messages.Unavailable, "the connection to troupe-monitor (pid %d) ended: %w", s.monitorPid, s.cause())
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	c.lose(s, err)
	return err
}

func (c *Client) have(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.lastErr = s, nil
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) lose(s *session, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = nil
	}
	c.lastErr = why
}

// connected gives the connection, waiting for one that is being made. Before
// the first Connect it fails at once.
func (c *Client) connected(ctx context.Context) (*session, error) {
	limit := time.NewTimer(c.cfg.ReconnectWait)
	defer limit.Stop()
	for {
		c.mu.Lock()
		s, changed, tried, lastErr := c.session, c.changed, c.tried, c.lastErr
		c.mu.Unlock()
		if s != nil && !s.ended() {
			return s, nil
		}
		if !tried {
			return nil, messages.Errorf(messages.Unavailable, "not connected to troupe-monitor yet")
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond): // a session may end unseen
		case <-limit.C:
			if lastErr == nil {
				lastErr = errNoConnection
			}
			return nil, messages.Errorf(messages.Unavailable, "not connected to troupe-monitor: %w", lastErr)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// call does one request over the present connection.
func call[R any](ctx context.Context, c *Client, op string, request any) (R, error) {
	var result R
	s, err := c.connected(ctx)
	if err != nil {
		return result, err
	}
	body, err := s.call(ctx, op, request)
	if err != nil {
		return result, err
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &result); err != nil {
			return result, fmt.Errorf("decode the monitor's answer to %q: %w", op, err)
		}
	}
	return result, nil
}

package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
)

var errNoConnection = errors.New("there is no connection")

// mostEvents is how many exits may wait to be heard. There are not so many
// containers on a node; a monitor that tells more is left, and the next
// connection begins with the truth.
const mostEvents = 1 << 16

// writeTimeout is how long the monitor may take to read a request.
const writeTimeout = 30 * time.Second

// session is one connection: many requests under way, answers in any order,
// events in between.
type session struct {
	nc         net.Conn
	log        *slog.Logger
	monitorPid int
	gone       chan struct{} // closed when the connection has ended

	write sync.Mutex

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan wire.Frame // one frame each
	events  []wire.State
	more    chan struct{} // has one element when events were added
	why     error
}

// greet makes a session of a fresh connection.
func greet(ctx context.Context, nc net.Conn, log *slog.Logger) (*session, error) {
	s := &session{
		nc: nc, log: log, gone: make(chan struct{}),
		waiting: map[uint64]chan wire.Frame{}, more: make(chan struct{}, 1),
	}
	go s.read()
	body, err := s.call(ctx, wire.OpHello, wire.Hello{Version: wire.Version})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("greet the monitor: %w", err)
	}
	var h wire.Hello
	if err := json.Unmarshal(body, &h); err != nil {
		s.close()
		return nil, fmt.Errorf("greet the monitor: %w", err)
	}
	s.monitorPid = h.Pid
	return s, nil
}

// call sends a request and waits for its answer. When ctx ends first, the
// monitor is told that nobody waits any more.
func (s *session) call(ctx context.Context, op string, request any) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answer := make(chan wire.Frame, 1)
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.waiting[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
	}()
	failpoint.Hit("monitor", op, "before")
	defer failpoint.Hit("monitor", op, "after")
	if err := s.send(wire.Frame{ID: id, Op: op}, request); err != nil {
		return nil, err
	}
	select {
	case f := <-answer:
		return result(f)
	case <-s.gone:
		select {
		case f := <-answer: // it came just before the end
			return result(f)
		default:
		}
		return nil, messages.Errorf(messages.Unavailable, "the connection to troupe-monitor ended during %q; whether it was done is not known: %w", op, s.cause())
	case <-ctx.Done():
		_ = s.send(wire.Frame{Op: wire.OpCancel}, wire.Cancel{ID: id}) // a lost connection cancels as well
		return nil, ctx.Err()
	}
}

func result(f wire.Frame) (json.RawMessage, error) {
	if f.Err != nil {
		return nil, messages.Errorf(kinds[f.Err.Kind], "%s", f.Err.Text)
	}
	return f.Body, nil
}

func (s *session) send(f wire.Frame, v any) error {
	data, err := wire.Encode(f, v)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	err = s.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		_, err = s.nc.Write(data)
	}
	if err != nil {
		s.end(err) // part of a frame may have gone out
		return messages.Errorf(messages.Unavailable, "send %q to troupe-monitor: %w", f.Op, err)
	}
	return nil
}

// read hands out what the monitor sends, until the connection ends. It never
// waits for who gets it: an answer has a place to go, events are queued.
func (s *session) read() {
	r := bufio.NewReader(s.nc)
	for {
		f, err := wire.Read(r)
		if err != nil {
			s.end(err)
			return
		}
		s.mu.Lock()
		switch {
		case f.ID != 0:
			if answer := s.waiting[f.ID]; answer != nil {
				delete(s.waiting, f.ID)
				answer <- f
			}
		case f.Op == wire.EventExit:
			var st wire.State
			if err := json.Unmarshal(f.Body, &st); err != nil {
				s.log.Error("an event of the monitor cannot be read", "err", err)
				break
			}
			s.events = append(s.events, st)
			select {
			case s.more <- struct{}{}:
			default:
			}
		}
		tooMany := len(s.events) > mostEvents
		s.mu.Unlock()
		if tooMany {
			s.end(fmt.Errorf("%d exits were told and not heard yet: the monitor tells what cannot be", mostEvents))
			return
		}
	}
}

// nextEvent waits for the next exit; false when the connection has ended and
// all were taken.
func (s *session) nextEvent() (wire.State, bool) {
	for {
		s.mu.Lock()
		if len(s.events) > 0 {
			st := s.events[0]
			s.events = s.events[1:]
			s.mu.Unlock()
			return st, true
		}
		s.mu.Unlock()
		if s.ended() {
			return wire.State{}, false
		}
		select {
		case <-s.more:
		case <-s.gone:
		}
	}
}

func (s *session) close() { s.end(errors.New("closed by the daemon")) }

func (s *session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = why
		close(s.gone)
		s.nc.Close()
	}
}

func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *session) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

//go:build linux && cgo

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"

	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// receiver reads a connection and keeps the descriptors that come with it.
type receiver struct {
	nc    *net.UnixConn
	files []*os.File
}

// maxFiles is how many descriptors a request may bring. What comes beyond is
// closed at once: else a client that sends more and more, with requests that
// take none, would leave no number for anything else.
const maxFiles = 3

func (r *receiver) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := r.nc.ReadMsgUnix(p, oob)
	if err != nil {
		return 0, err // io.EOF at the end
	}
	if oobn > 0 {
		r.keep(oob[:oobn])
	}
	return n, nil
}

func (r *receiver) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			if len(r.files) < maxFiles {
				r.files = append(r.files, os.NewFile(uintptr(fd), "client"))
			} else {
				unix.Close(fd)
			}
		}
		if err != nil {
			return
		}
	}
}

// take hands over the descriptors.
func (r *receiver) take() []*os.File {
	files := r.files
	r.files = nil
	return files
}

func (r *receiver) close() { closeFiles(r.take()) }

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// session is a connection that serves one streamed exec or attach.
type session struct {
	*conn
	id    uint64
	files []*os.File // the client's that are not given away yet

	mu    sync.Mutex
	stdin func() // what the end of the client's stdin does; nil: nothing
}

func isSession(op string) bool { return op == wire.OpExecStream || op == wire.OpAttach }

// session runs the request, and ends it when the connection ends.
func (c *conn) session(f wire.Frame, in *receiver, r *bufio.Reader) {
	s := &session{conn: c, id: f.ID, files: in.take()}
	done := make(chan struct{})
	c.m.guard("session "+f.Op, func() {
		defer close(done)
		defer c.close()
		defer func() { closeFiles(s.files) }()
		v, err := s.run(f)
		s.tell(wire.Frame{ID: s.id}, v, err, nil)
	})
	for {
		f, err := wire.Read(r)
		if err != nil {
			break
		}
		if f.Op == wire.OpStdinDone {
			s.stdinDone()
		}
	}
	c.end()
	<-done
}

func (s *session) run(f wire.Frame) (any, error) {
	failpoint.Hit("handle", f.Op, "before")
	defer failpoint.Hit("handle", f.Op, "after")
	if f.Op == wire.OpExecStream {
		return with(f.Body, func(r wire.ExecStream) (any, error) { return s.exec(r) })
	}
	return with(f.Body, func(r wire.Attach) (any, error) { return nil, s.attach(r) })
}

// tell writes a frame at once, with a descriptor if there is one.
func (s *session) tell(f wire.Frame, v any, failure error, file *os.File) {
	if failure != nil {
		v = nil
		if !errors.As(failure, &f.Err) {
			f.Err = &wire.Error{Kind: wire.Internal, Text: failure.Error()}
		}
	}
	data, err := wire.Encode(f, v)
	if err != nil {
		s.log.Error("an answer cannot be sent", "err", err)
		return
	}
	var oob []byte
	if file != nil {
		oob = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := s.nc.WriteMsgUnix(data, oob, nil); err != nil {
		s.end() // there is nobody
	}
}

// started tells the client that the session has begun.
func (s *session) started(v wire.Started, file *os.File) {
	body, _ := json.Marshal(v) // two booleans
	s.tell(wire.Frame{Op: wire.EventStarted, Body: body}, nil, nil, file)
}

func (s *session) stdinDone() {
	s.mu.Lock()
	done := s.stdin
	s.mu.Unlock()
	if done != nil {
		done()
	}
}

// hand gives the client's descriptors away, in the order of wanted; what is
// not wanted is nil.
func (s *session) hand(wanted ...bool) ([]*os.File, error) {
	given, rest := make([]*os.File, len(wanted)), s.files
	for i, want := range wanted {
		if !want {
			continue
		}
		if len(rest) == 0 {
			return nil, failf(wire.Invalid, "the request came with %d descriptors, which are too few", len(s.files))
		}
		given[i], rest = rest[0], rest[1:]
	}
	return given, nil
}

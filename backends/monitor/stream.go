package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// firstSize is how long a command with a terminal waits for the size of the
// client's: a program that asks at once should not be told 0 by 0. Clients send
// it first of all.
const firstSize = 100 * time.Millisecond

// ExecStream runs a command whose stdio are pipes made here, or a terminal
// whose master comes here.
func (c *Client) ExecStream(ctx context.Context, r backends.ExecStreamRequest) (int32, error) {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	l := &link{streams: r.Streams}
	defer l.close()
	request := wire.ExecStream{
		Ref: wire.Ref{Pod: r.Pod, Container: r.Container}, Command: r.Command, TTY: r.TTY,
		Stdin: r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil && !r.TTY,
	}
	if r.TTY {
		size := firstOf(ctx, r.Resize)
		request.Width, request.Height = size.Width, size.Height
	} else if err := l.pipes(request.Stdin, request.Stdout, request.Stderr); err != nil {
		return 0, err
	}
	body, err := c.converse(ctx, l, wire.OpExecStream, request)
	if err != nil {
		return 0, err
	}
	var end wire.ExecEnd
	if err := json.Unmarshal(body, &end); err != nil {
		return 0, fmt.Errorf("decode how the command ended: %w", err)
	}
	return end.ExitCode, nil
}

// Attach joins the streams to a running container's.
func (c *Client) Attach(ctx context.Context, r backends.AttachRequest) error {
	ctx, leave := untilGone(ctx, r.Gone)
	defer leave()
	l := &link{streams: r.Streams, attach: true}
	defer l.close()
	request := wire.Attach{
		Ref: wire.Ref{Pod: r.Pod, Container: r.Container}, Stdin: r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil,
	}
	if err := l.pipes(false, request.Stdout, request.Stderr); err != nil {
		return err
	}
	_, err := c.converse(ctx, l, wire.OpAttach, request)
	return err
}

// untilGone is ctx, ending also when the client has gone.
func untilGone(ctx context.Context, gone <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if gone == nil {
		return ctx, cancel
	}
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// firstOf is the first size that comes soon; zero: none did.
func firstOf(ctx context.Context, sizes <-chan messages.TerminalSize) messages.TerminalSize {
	if sizes == nil {
		return messages.TerminalSize{}
	}
	limit := time.NewTimer(firstSize)
	defer limit.Stop()
	select {
	case size := <-sizes:
		return size
	case <-limit.C:
	case <-ctx.Done():
	}
	return messages.TerminalSize{}
}

// link is the daemon's side of a session's descriptors.
type link struct {
	streams messages.Streams
	attach  bool
	theirs  []*os.File // for the monitor

	mu             sync.Mutex
	stdin          *os.File // written to
	stdout, stderr *os.File // read
	terminal       *os.File // its size is set

	sources []*source
	copied  sync.WaitGroup // sources that are not at their end
}

func (l *link) pipes(stdin, stdout, stderr bool) (err error) {
	if stdin {
		if l.stdin, err = l.pipe(false); err != nil {
			return err
		}
	}
	if stdout {
		if l.stdout, err = l.pipe(true); err != nil {
			return err
		}
	}
	if stderr {
		l.stderr, err = l.pipe(true)
	}
	return err
}

// pipe gives our end, which Go waits for without a thread. Theirs is blocking,
// as programs expect.
func (l *link) pipe(read bool) (ours *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe for a session: %w", err)
	}
	our, their := fds[0], fds[1]
	if !read {
		our, their = their, our
	}
	l.theirs = append(l.theirs, os.NewFile(uintptr(their), "pipe"))
	return pollable(our)
}

func pollable(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "session"), nil
}

func (l *link) closeTheirs() {
	for _, f := range l.theirs {
		_ = f.Close()
	}
	l.theirs = nil
}

func (l *link) close() {
	l.closeTheirs()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range []**os.File{&l.stdin, &l.stdout, &l.stderr, &l.terminal} {
		if *f != nil {
			_ = (*f).Close()
			*f = nil
		}
	}
}

// accept takes in the descriptor that came with the start of the session.
func (l *link) accept(s wire.Started, fds []int) error {
	l.closeTheirs()
	if len(fds) == 0 {
		return nil
	}
	f, err := pollable(fds[0])
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.TTY {
		l.stdin = f
		return nil
	}
	l.terminal = f
	if l.streams.Stdin != nil {
		if l.stdin, err = duplicate(f); err != nil {
			return err
		}
	}
	if l.streams.Stdout != nil && !l.attach {
		l.stdout, err = duplicate(f)
	}
	return err
}

// duplicate gives each user of a terminal a descriptor of its own to close.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	dup, dupErr := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, dupErr
	}
	return os.NewFile(uintptr(dup), "session"), nil
}

// run begins to copy. stdinEnded is called when the client's stdin has ended.
func (l *link) run(ctx context.Context, stdinEnded func()) {
	l.copy(l.stdout, l.streams.Stdout)
	l.copy(l.stderr, l.streams.Stderr)
	if l.streams.Stdin != nil {
		go l.feed(stdinEnded)
	}
	if l.terminal != nil && l.streams.Resize != nil {
		go l.resize(ctx)
	}
}

// feed copies the client's stdin and passes its end on. When nobody reads it
// any more, what else comes is thrown away: unread, it would keep the client's
// connection from delivering anything else.
func (l *link) feed(ended func()) {
	l.mu.Lock()
	to, hasEnd := l.stdin, l.terminal == nil // a terminal's end is the user's own
	l.mu.Unlock()
	if to != nil {
		_, _ = io.Copy(to, l.streams.Stdin) // an error here ends at whoever reads
		if hasEnd {
			_ = to.Close()
		}
	}
	_, _ = io.Copy(io.Discard, l.streams.Stdin)
	ended()
}

func (l *link) copy(from *os.File, to io.Writer) {
	if from == nil || to == nil {
		return
	}
	s := &source{file: from}
	l.sources = append(l.sources, s)
	l.copied.Add(1)
	go func() {
		defer l.copied.Done()
		_, _ = io.Copy(to, s) // a client that cannot be written to is gone, and seen to be
	}()
}

// drain returns when what there was at the end of the process is delivered.
func (l *link) drain(ctx context.Context) {
	for _, s := range l.sources {
		s.processEnded()
	}
	done := make(chan struct{})
	go func() { l.copied.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (l *link) resize(ctx context.Context) {
	for {
		select {
		case size, ok := <-l.streams.Resize:
			if !ok {
				return
			}
			l.setSize(size)
		case <-ctx.Done():
			return
		}
	}
}

func (l *link) setSize(size messages.TerminalSize) {
	if size.Width == 0 && size.Height == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminal == nil {
		return
	}
	raw, err := l.terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a terminal whose program has ended has no size
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

const (
	// linger is how long, after the process has ended, others that hold its
	// output may be silent before they are not waited for any more (the same
	// as ExecSync's).
	linger = 250 * time.Millisecond
	// pipeMost is the most that one write end can have left in a pipe when its
	// process ended: what is read after that is somebody else's.
	pipeMost = 1 << 20
)

// source reads a process's output, and ends when all that was written before
// the process ended has been read, though others still hold the pipe.
type source struct {
	file *os.File

	mu    sync.Mutex
	ended bool
	after int // bytes read since
}

func (s *source) processEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = s.file.SetReadDeadline(time.Now()) // wakes a Read; closed: it is at its end
}

func (s *source) Read(p []byte) (int, error) {
	for {
		asked := s.begin()
		n, err := s.file.Read(p)
		s.mu.Lock()
		if asked {
			s.after += n
		}
		over := s.after > pipeMost
		s.mu.Unlock()
		switch {
		case n > 0 && over:
			return n, io.EOF
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && !asked:
			continue // woken by the end of the process: what is left?
		case err != nil:
			return 0, io.EOF // its end; for a terminal it is EIO
		}
	}
}

// begin says whether the process has ended; then the read has a limit.
func (s *source) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = s.file.SetReadDeadline(time.Now().Add(linger))
	}
	return s.ended
}

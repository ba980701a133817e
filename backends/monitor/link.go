package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/troupe-run/troupe/backends/monitor/wire"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

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
// -1: none did.
func (l *link) accept(s wire.Started, fd int) error {
	l.closeTheirs()
	if fd < 0 {
		return nil
	}
	f, err := pollable(fd)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stdin != nil || s.TTY && !l.attach && l.stdout != nil {
		_ = f.Close()
		return errors.New("the monitor sends one that was not asked for")
	}
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

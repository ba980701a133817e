package monitor

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

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

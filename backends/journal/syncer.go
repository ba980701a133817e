package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// gather is how long the syncer waits after the first write for more: a record
// that changes ten times while a pod starts is synced once or twice.
const gather = 100 * time.Millisecond

// syncer brings written records to the disk, behind the back of the writers.
type syncer struct {
	log  *slog.Logger
	kick chan struct{} // holds one token when there is something to do
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	files map[string]bool
	dirs  map[string]bool
	ended bool
	last  error // of the last round
}

func startSyncer(log *slog.Logger) *syncer {
	s := &syncer{
		log: log, kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		files: map[string]bool{}, dirs: map[string]bool{},
	}
	go s.run()
	return s
}

// wrote says that a file was renamed into place; its directory and that one's
// parent (it may be new itself) are synced with it.
func (s *syncer) wrote(path string) {
	dir := filepath.Dir(path)
	s.add([]string{path}, []string{dir, filepath.Dir(dir)})
}

// removed says that something was taken out of a directory.
func (s *syncer) removed(dir string) { s.add(nil, []string{dir}) }

func (s *syncer) add(files, dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	for _, f := range files {
		s.files[f] = true
	}
	for _, d := range dirs {
		s.dirs[d] = true
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *syncer) run() {
	defer close(s.done)
	for {
		select {
		case <-s.kick:
		case <-s.stop:
			s.round()
			return
		}
		select {
		case <-time.After(gather):
		case <-s.stop:
		}
		s.round()
	}
}

// round syncs all that was written before it began: data first, so that a
// directory never names a file whose content is not there.
func (s *syncer) round() {
	s.mu.Lock()
	files, dirs := s.files, s.dirs
	s.files, s.dirs = map[string]bool{}, map[string]bool{}
	s.mu.Unlock()
	var errs []error
	for f := range files {
		errs = append(errs, syncPath(f, unix.Fdatasync))
	}
	for d := range dirs {
		errs = append(errs, syncPath(d, unix.Fsync))
	}
	err := errors.Join(errs...)
	if err != nil {
		s.log.Error("records are not on the disk: a power cut now could lose them", "error", err)
	}
	s.mu.Lock()
	s.last = err
	s.mu.Unlock()
}

// syncPath syncs what is there now; what has been removed needs no sync.
func syncPath(path string, sync func(int) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := sync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

func (s *syncer) close() error {
	s.mu.Lock()
	first := !s.ended
	s.ended = true
	s.mu.Unlock()
	if first {
		close(s.stop)
	}
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

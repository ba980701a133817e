//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/troupe-run/troupe/backends/failpoint"
	"golang.org/x/sys/unix"
)

// spool is where the bytes of a container's stdout or stderr are between the
// pipe and the log, so that each gets into the log once whenever the monitor
// dies: a file of which the next monitor can tell what was done with it.
//
//   - splice(2) moves bytes from the pipe into the file. The kernel takes as many
//     out of the pipe as the file grows by, also when we are killed meanwhile. So
//     the size of the file is how much has left the pipe.
//   - The head of the file, one mapped page, says up to where all is in the log
//     (logged). Before a write to the log it says what is about to be written
//     (to, at, and how long the log was), after it logged is to. When the next
//     monitor finds the two different, it makes the same bytes again from the
//     same stamp of time, and the log's size tells how many of them are there.
//   - Bytes behind logged, half a line for example, are read from the file again.
//
// All is in the page cache (the directory is a tmpfs on a real node, and need
// not outlive a power cut: the containers do not either). What is logged is
// punched out of the file.
//
// Where the file system fails (full, an I/O error) the bytes are read past the
// file, because a container must not stop for it; until there is room again, a
// death of the monitor can lose what was read and not logged yet.
type spool struct {
	log  *slog.Logger
	file *os.File
	fd   int
	head *spoolHead
	page []byte // the mapping of head

	size    int64 // bytes that were moved into it
	taken   int64 // of these, the ones that were handed on
	half    int   // of these, the ones that wait for the end of their line
	punched int64
	retry   time.Time // past the file: when to try it again

	buffer   [2]*os.File // of a terminal: between it and the file; both ends
	bufferFd [2]int
}

// spoolHead is the first page of the file. Each word is stored as a whole, and
// in the order of the program: what a killed process has stored is seen.
type spoolHead struct {
	magic  uint64
	plain  uint64 // 1: bytes are read past the file, which says nothing
	logged int64
	to     int64 // behind logged: a write to the log is under way
	at     int64 // its stamp of time, in nanoseconds since 1970
	before int64 // the log's size before it
	dev    uint64
	ino    uint64
}

const (
	spoolMagic = 0x316c6f6f70530a54
	spoolStart = 4096 // of the bytes in the file
	punchSize  = 256 << 10
)

// spoolMost is how long a file may become before it is begun anew.
var spoolMost int64 = 1 << 40

// openSpool opens the file of that name, or makes it.
func openSpool(name string, log *slog.Logger) (_ *spool, err error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the spool %s: %w", name, err)
	}
	s := &spool{log: log, file: os.NewFile(uintptr(fd), name), fd: fd}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size < spoolStart { // written, not only made longer: a page that cannot be had later would be a SIGBUS
		if _, err := unix.Pwrite(fd, make([]byte, spoolStart), 0); err != nil {
			return nil, fmt.Errorf("write the spool %s: %w", name, err)
		}
		st.Size = spoolStart
	}
	if s.page, err = unix.Mmap(fd, 0, spoolStart, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map the spool %s: %w", name, err)
	}
	s.head = (*spoolHead)(unsafe.Pointer(&s.page[0]))
	s.size = st.Size - spoolStart
	h := s.head
	switch {
	case h.magic != spoolMagic && h.magic != 0:
		return nil, fmt.Errorf("the spool %s is not one", name)
	case h.plain != 0, h.logged > s.size: // the second: it was just begun anew
		if err := s.anew(); err != nil {
			return nil, err
		}
	}
	atomic.StoreUint64(&h.magic, spoolMagic)
	return s, nil
}

// anew begins the file from its start; all that is in it was logged, or counts
// for nothing. Between the steps logged is behind the size, which says so.
func (s *spool) anew() error {
	if err := unix.Ftruncate(s.fd, spoolStart); err != nil {
		return fmt.Errorf("empty the spool: %w", err)
	}
	failpoint.Hit("log/anew/truncated")
	atomic.StoreInt64(&s.head.to, 0)
	atomic.StoreInt64(&s.head.logged, 0)
	atomic.StoreUint64(&s.head.plain, 0)
	s.size, s.taken, s.punched = 0, 0, 0
	return nil
}

// fetch moves what src has into the file and buf. The errors of the file system
// are dealt with; any other is src's own.
func (s *spool) fetch(src int, buf []byte) (int, error) {
	if s.head.plain != 0 && !s.again() {
		return s.past(src, buf)
	}
	n, err := s.move(src, len(buf))
	if n <= 0 {
		if spoolFault(err) {
			s.fail(err)
			return s.past(src, buf)
		}
		return n, err
	}
	failpoint.Hit("log/splice/after")
	off := s.size
	s.size += int64(n)
	if err := s.read(buf[:n], off); err != nil {
		s.log.Error("output of the container is lost: what was moved into the spool cannot be read from it", "bytes", n, "err", err)
		s.fail(err)
		return s.past(src, buf)
	}
	failpoint.Hit("log/read/after")
	return n, nil
}

// move is splice, for a terminal by way of a pipe of its own: one end has to be
// a pipe. That pipe is at the keeper too, so nothing in it is lost.
func (s *spool) move(src, most int) (int, error) {
	if s.buffer[0] == nil {
		return s.splice(src, most)
	}
	out, in := s.bufferFd[0], s.bufferFd[1]
	if n, err := s.splice(out, most); !errors.Is(err, unix.EAGAIN) {
		return n, err
	}
	n, err := unix.Splice(src, nil, in, nil, min(most, 4096), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	if n <= 0 {
		if errors.Is(err, unix.EINVAL) { // the kernel has no splice for terminals
			return s.copy(src, most)
		}
		return int(n), terminalEnd(err)
	}
	failpoint.Hit("log/terminal/spliced")
	return s.splice(out, most)
}

// terminalEnd keeps a terminal's end, EIO, apart from a file system's error.
func terminalEnd(err error) error {
	if errors.Is(err, unix.EIO) {
		return errTerminalEnd
	}
	return err
}

var errTerminalEnd = errors.New("the terminal has been hung up")

// copy is for a kernel that does not splice terminals: what was read and not
// written when we are killed is lost.
func (s *spool) copy(src, most int) (int, error) {
	buf := make([]byte, min(most, 4096)) // more a terminal does not give
	n, err := unix.Read(src, buf)
	if n <= 0 {
		return n, terminalEnd(err)
	}
	return unix.Pwrite(s.fd, buf[:n], spoolStart+s.size)
}

func (s *spool) splice(src, most int) (int, error) {
	off := spoolStart + s.size
	n, err := unix.Splice(src, nil, s.fd, &off, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return int(n), err
}

func spoolFault(err error) bool {
	return err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, errTerminalEnd)
}

// past reads without the file.
func (s *spool) past(src int, buf []byte) (int, error) {
	if s.buffer[0] != nil {
		if n, err := unix.Read(s.bufferFd[0], buf); n > 0 {
			return n, err
		}
	}
	return unix.Read(src, buf)
}

// fail goes over to reading past the file.
func (s *spool) fail(err error) {
	if s.head.plain == 0 {
		s.log.Error("the monitor's file system takes no output: it goes to the log directly, and the monitor's death could lose some, until there is room", "file", s.file.Name(), "err", err)
	}
	atomic.StoreUint64(&s.head.plain, 1)
	s.retry = time.Now().Add(time.Second)
}

// again tries the file once more.
func (s *spool) again() bool {
	if s.half > 0 || time.Now().Before(s.retry) {
		return false
	}
	s.retry = time.Now().Add(time.Second)
	if err := s.anew(); err != nil {
		return false
	}
	s.log.Info("output goes through the monitor's file system again", "file", s.file.Name())
	return true
}

// intend says what is about to be written to the log: all up to to, at that
// time, behind what it has now.
func (s *spool) intend(to int64, at time.Time, log unix.Stat_t) {
	if s == nil || s.head.plain != 0 {
		return
	}
	h := s.head
	atomic.StoreInt64(&h.at, at.UnixNano())
	atomic.StoreInt64(&h.before, log.Size)
	atomic.StoreUint64(&h.dev, log.Dev)
	atomic.StoreUint64(&h.ino, log.Ino)
	atomic.StoreInt64(&h.to, to)
	failpoint.Hit("log/intent/after")
}

// done says that it was.
func (s *spool) done(to int64) {
	if s == nil || s.head.plain != 0 {
		return
	}
	atomic.StoreInt64(&s.head.logged, to)
	failpoint.Hit("log/done/after")
}

// free gives back the room of what is logged: rarely while much comes, down to
// a page when it is quiet.
func (s *spool) free(quiet bool) {
	if s.head.plain != 0 {
		return
	}
	logged := s.head.logged
	if logged == s.size && s.size > spoolMost {
		if err := s.anew(); err != nil {
			s.fail(err)
		}
		return
	}
	n := logged/spoolStart*spoolStart - s.punched
	if n < spoolStart || (!quiet && n < punchSize) {
		return
	}
	// Where holes cannot be punched the file grows until it is begun anew.
	if err := unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, spoolStart+s.punched, n); err == nil {
		failpoint.Hit("log/punch/after")
	}
	s.punched += n
}

// remove ends it: all is in the log.
func (s *spool) remove() {
	if s == nil {
		return
	}
	failpoint.Hit("log/remove/before")
	if err := os.Remove(s.file.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Error("a file of the monitor's stays until the container is removed", "err", err)
	}
	s.close()
}

func (s *spool) close() {
	if s.page != nil {
		_ = unix.Munmap(s.page)
		s.page, s.head = nil, nil
	}
	s.file.Close()
	closeFiles(s.buffer[:])
	s.buffer = [2]*os.File{}
}

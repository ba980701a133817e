//go:build linux && cgo

package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"golang.org/x/sys/unix"
)

// logFile is a container's log in the CRI format (kubernetes
// design-proposals/node/kubelet-cri-logging.md):
//
//	2016-10-06T00:17:09.669794202Z stdout F line
//
// Both streams go to one file. Records are written with O_APPEND in one write
// per read of the pipe.
//
// A disk that does not take a write (ENOSPC, EIO, a quota) must not stop the
// container, nor may what it prints pile up in the monitor: the lines of that
// write are dropped and counted, a record that was cut is cut off the file
// again so that what is there stays whole, and the first failure and the
// recovery are told in the monitor's log. Reading goes on throughout.
type logFile struct {
	log *slog.Logger

	mu      sync.Mutex
	path    string
	file    *os.File     // nil: output is discarded
	streams int          // that still write to it; the last one closes it
	lost    int          // bytes dropped since writes fail
	scratch []byte       // the batch; between batches nil
	stamp   []byte       // what each of its records begins with
	keep    func(fd int) // told the descriptor, and -1 before it is closed; nil: nobody is
}

// openLog makes the parents and opens the file; an empty path discards.
func openLog(path string, log *slog.Logger) (*logFile, error) {
	l := &logFile{path: path, log: log}
	if path == "" {
		return l, nil
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, fmt.Errorf("open the container's log: %w", err)
	}
	l.file = f
	return l, nil
}

func openAppend(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}

// reopen makes the file at the same path the one that is written to, and
// returns when it is. Half a line that waits for its end goes to the new one.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" {
		return nil
	}
	if l.file == nil {
		return errors.New("the log is closed")
	}
	f, err := openAppend(l.path)
	if err != nil {
		return err
	}
	// First the keeper: what is written to the new file must not be followed by
	// a later monitor's lines in the old one.
	failpoint.Hit("log/reopen/before")
	l.tell(int(f.Fd()))
	failpoint.Hit("log/reopen/after")
	l.file.Close()
	l.file = f
	return nil
}

func (l *logFile) tell(fd int) {
	if l.keep != nil {
		l.keep(fd)
	}
}

// retell tells keep again, where there is something to keep.
func (l *logFile) retell() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.tell(int(l.file.Fd()))
	}
}

// opened and ended count the streams. An exited container is kept for long, and
// an open log would keep the disk space of a file that was rotated away.
func (l *logFile) opened() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams++
}

func (l *logFile) ended() {
	l.mu.Lock()
	l.streams--
	last := l.streams == 0
	l.mu.Unlock()
	if last {
		l.close()
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.tell(-1)
		l.file.Close()
		l.file = nil
	}
}

// scratches are shared by all logs: with a thousand containers one for each
// would add up, and one made anew for each batch kept the collector busier than
// all else together (120 MB/s instead of 480).
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// scratchMax is the most that is kept; a batch of very short lines is larger.
const scratchMax = 4 * readSize

// begin starts a batch of records of one moment for one stream; end writes it.
func (l *logFile) begin(at time.Time) {
	l.mu.Lock()
	l.scratch = (*scratches.Get().(*[]byte))[:0]
	l.stamp = at.AppendFormat(l.stamp[:0], timeFormat)
}

// timeFormat has all nine digits, so that lines sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

func (l *logFile) record(stream string, partial bool, parts ...[]byte) {
	tag := " F "
	if partial {
		tag = " P "
	}
	b := append(l.scratch, l.stamp...)
	b = append(b, ' ')
	b = append(b, stream...)
	b = append(b, tag...)
	for _, p := range parts {
		b = append(b, p...)
	}
	l.scratch = append(b, '\n')
}

// end writes the batch, which is all of a stream up to to that came by way of
// the spool (nil: none).
func (l *logFile) end(from *spool, to int64, at time.Time) {
	defer l.mu.Unlock()
	defer l.release()
	if len(l.scratch) == 0 {
		return
	}
	if l.file != nil {
		var st unix.Stat_t
		if from != nil {
			_ = unix.Fstat(int(l.file.Fd()), &st) // of an open descriptor: it cannot fail
		}
		from.intend(to, at, st)
		l.write()
	}
	from.done(to)
}

func (l *logFile) write() {
	n, err := l.file.Write(l.scratch)
	switch {
	case err != nil:
		if n > 0 {
			l.cut(n)
		}
		if l.lost == 0 {
			l.log.Error("the container's log cannot be written: lines are dropped until it can", "path", l.path, "err", err)
		}
		l.lost += len(l.scratch)
	case l.lost > 0:
		l.log.Warn("the container's log can be written again", "path", l.path, "lostBytes", l.lost)
		l.lost = 0
	}
	failpoint.Hit("log/write/after")
}

// mend is end for a batch of which an earlier monitor may have written some or
// all: what is missing is written.
func (l *logFile) mend(from *spool, to int64) {
	defer l.mu.Unlock()
	defer l.release()
	if l.file != nil && !l.has(from.head) {
		failpoint.Hit("log/mend/before")
		l.write()
	}
	from.done(to)
}

// has says whether the batch is in the log, and cuts off what is there of it if
// it is not whole. Only who truncates logs behind the runtime's back (logrotate's
// copytruncate) makes this more than a look at the size. Of what is no regular
// file nothing can be known.
func (l *logFile) has(h *spoolHead) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.file.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	if st.Dev != h.dev || st.Ino != h.ino {
		l.log.Warn("the last lines may be twice in the logs: the monitor died while it wrote them, and the file they went to is not known any more", "path", l.path)
		return false
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", l.file.Fd()))
	if err != nil {
		l.log.Warn("the log cannot be read: its last lines may be twice in it", "path", l.path, "err", err)
		return false
	}
	defer f.Close()
	there := make([]byte, len(l.scratch))
	n, _ := f.ReadAt(there, h.before) // fewer at the end of the file
	switch {
	case bytes.Equal(there[:n], l.scratch):
		return true
	case st.Size < h.before: // it was truncated, before or after the write
		n, _ = f.ReadAt(there, max(0, st.Size-int64(len(there))))
		return bytes.Equal(there[:n], l.scratch)
	case n > 0 && bytes.HasPrefix(l.scratch, there[:n]):
		l.cut(n)
	}
	return false
}

// cut takes back the n bytes of a batch that only began to be written.
func (l *logFile) cut(n int) {
	info, err := l.file.Stat()
	if err == nil {
		err = l.file.Truncate(info.Size() - int64(n))
	}
	if err != nil {
		l.log.Error("the container's log ends in a torn line", "path", l.path, "err", err)
	}
}

// release gives back the batch's memory.
func (l *logFile) release() {
	if b := l.scratch; cap(b) <= scratchMax {
		scratches.Put(&b)
	}
	l.scratch = nil
}

//go:build linux && cgo

package main

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// lines is the sink that writes a log. Between reads it holds at most one
// line's beginning, and no memory when there is none. How it cuts the bytes of
// a stream does not depend on how they come: from the same bytes and time the
// next monitor makes the same records.
type lines struct {
	log   *logFile
	name  string // stdout, stderr
	spool *spool // where the bytes are, or nil
	half  []byte // the beginning of a line, at most maxLine bytes
}

func (w *lines) take(data []byte) {
	now := time.Now().UTC()
	w.log.begin(now)
	w.format(data)
	w.write(now, len(data))
}

func (w *lines) format(data []byte) {
	for len(data) > 0 {
		nl := bytes.IndexByte(data, '\n')
		room := maxLine - len(w.half)
		switch {
		case nl >= 0 && nl <= room:
			w.log.record(w.name, false, w.half, data[:nl])
			data = data[nl+1:]
			w.half = nil
		case len(data) > room:
			w.log.record(w.name, true, w.half, data[:room])
			data = data[room:]
			w.half = nil
		default:
			w.half = append(w.half, data...)
			return
		}
	}
}

// formatHalf makes a record of the beginning of a line: P, since no newline came.
func (w *lines) formatHalf() {
	if len(w.half) > 0 {
		w.log.record(w.name, true, w.half)
		w.half = nil
	}
}

// write ends what begin began, after n more bytes.
func (w *lines) write(now time.Time, n int) {
	if w.spool == nil {
		w.log.end(nil, 0, now)
		return
	}
	w.spool.taken += int64(n)
	w.spool.half = len(w.half)
	w.log.end(w.spool, w.spool.taken-int64(len(w.half)), now)
}

// end writes a last line that has no newline.
func (w *lines) end() {
	now := time.Now().UTC()
	w.log.begin(now)
	w.formatHalf()
	w.write(now, 0)
	w.log.ended()
}

// mend finishes the write to the log that an earlier monitor died in, if there
// was one. It comes before anything else is written to that log.
func (w *lines) mend() error {
	h := w.spool.head
	from, to := h.logged, h.to
	w.spool.taken = from
	if to <= from {
		return nil
	}
	w.spool.taken = to
	data := make([]byte, to-from)
	if err := w.spool.read(data, from); err != nil {
		return err
	}
	w.log.begin(time.Unix(0, h.at).UTC())
	w.format(data)
	w.formatHalf() // to is always the end of a record
	w.log.mend(w.spool, to)
	return nil
}

// feed takes what an earlier monitor had moved into the spool and not logged.
func (w *lines) feed() error {
	buf := make([]byte, readSize)
	for w.spool.taken < w.spool.size {
		part := buf[:min(int64(len(buf)), w.spool.size-w.spool.taken)]
		if err := w.spool.read(part, w.spool.taken); err != nil {
			return err
		}
		w.take(part)
	}
	return nil
}

// read gets bytes of the stream out of the file.
func (s *spool) read(data []byte, from int64) error {
	for len(data) > 0 {
		n, err := unix.Pread(s.fd, data, spoolStart+from)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.New("the spool is shorter than its head says")
		default:
			data, from = data[n:], from+int64(n)
		}
	}
	return nil
}

//go:build linux && cgo

package main

import (
	"errors"
	"os"

	"github.com/troupe-run/troupe/backends/failpoint"
	"golang.org/x/sys/unix"
)

// loadOutput goes on with what a container prints where the last monitor
// stopped: the write to the log that it died in is finished first, since both
// streams go to one file; then comes what was read and not written; then what
// is in the pipes. Without a keeper the pipes are gone, and what the spools have
// is the rest.
func (c *container) loadOutput(k *kept) {
	sources := map[string]*os.File{"stdout": k.take(slotStdout), "stderr": k.take(slotStderr)}
	defer func() { closeFiles([]*os.File{sources["stdout"], sources["stderr"]}) }()
	outputs := map[string]*lines{}
	for name, f := range sources {
		_, err := os.Lstat(c.m.spool(c.ref.Key(), name))
		if f == nil && err != nil {
			continue
		}
		outputs[name] = &lines{name: name, spool: c.openOutput(name)}
	}
	if len(outputs) == 0 {
		return
	}
	if err := c.loadLog(k); err != nil {
		c.log.Error("the log cannot be opened: what the container prints is thrown away", "err", err)
		c.out = &logFile{log: c.log}
	}
	c.out.opened() // or the end of one stream closes it
	defer c.out.ended()
	for name, w := range outputs {
		w.log = c.out
		c.perhapsLost(name, w, (*lines).mend)
	}
	failpoint.Hit("keep/load/mended")
	for name, w := range outputs {
		c.perhapsLost(name, w, (*lines).feed)
	}
	for _, name := range []string{"stdout", "stderr"} {
		w := outputs[name]
		if w == nil {
			continue
		}
		if sources[name] == nil { // it has ended, or has gone with a keeper
			c.out.opened()
			w.end()
			w.spool.remove()
			continue
		}
		if w.spool != nil && k.files[slotBufferIn] != nil && name == "stdout" {
			w.spool.useBuffer(k.take(slotBufferOut), k.take(slotBufferIn))
		}
		st, err := c.connectOutput(sources[name], name, w)
		if err != nil {
			c.log.Error("what the container prints is not read any more", "stream", name, "err", err)
			w.spool.remove()
			continue
		}
		sources[name] = nil
		c.mu.Lock()
		if name == "stdout" {
			c.stdout = st
		} else {
			c.stderr = st
		}
		c.mu.Unlock()
	}
}

func (c *container) perhapsLost(name string, w *lines, do func(*lines) error) {
	if w.spool == nil {
		return
	}
	if err := do(w); err != nil {
		c.log.Error("what the last monitor had read of the container's output and not written yet is lost", "stream", name, "err", err)
	}
}

// loadLog goes on with the file the last monitor had, whatever its name is by
// now: the kubelet renames a log before it asks for a new one. A file that has
// no name any more, because somebody put another in its place, is not kept.
func (c *container) loadLog(k *kept) error {
	f := k.take(slotLog)
	if f == nil {
		var err error
		c.out, err = c.openLog(c.record.LogPath)
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err == nil && st.Nlink == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		other, err := os.OpenFile(c.record.LogPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640) // the directory goes with its pod: it is not made
		switch {
		case err == nil:
			f.Close()
			f = other
		case !errors.Is(err, os.ErrNotExist):
			c.log.Warn("the log was removed, and cannot be made anew", "err", err)
		}
	}
	c.out = &logFile{path: c.record.LogPath, log: c.log, file: f, keep: c.keepLog}
	c.out.retell()
	return nil
}

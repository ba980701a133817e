//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends/failpoint"
	"golang.org/x/sys/unix"
)

// adoptedEnv makes a process of this binary the keeper of a monitor that lives.
const adoptedEnv = "TROUPE_KEEPER_FOR"

// replace starts a keeper when ours has died, and tells it all. It is our child,
// and not our parent: after our own end the containers of today go to whoever
// reaps orphans on this machine, and the kernel is asked how they ended
// (foreignExit).
func (m *monitor) replaceKeeper() {
	for pause := time.Duration(0); ; pause = min(2*pause+100*time.Millisecond, 5*time.Second) {
		time.Sleep(pause)
		err := m.startKeeper()
		if err == nil {
			m.log.Warn("the keeper had died: another one was started")
			m.retell()
			return
		}
		m.log.Error("the keeper has died and another cannot be started: what containers print is lost if the monitor dies too", "err", err)
	}
}

func (m *monitor) startKeeper() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket pair for the keeper: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "keeper")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(failpoint.Environ(), "PATH="+os.Getenv("PATH"), adoptedEnv+"=3")
	cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stdout, os.Stderr, "/"
	cmd.ExtraFiles = []*os.File{theirs}
	wait, err := m.children.start(cmd)
	if err != nil {
		unix.Close(fds[0])
		return fmt.Errorf("start the keeper: %w", err)
	}
	m.guard("wait for the keeper", func() { _ = wait() }) // its socket tells its end
	return m.keeper.use(fds[0])
}

// retell gives a new keeper all there is to keep. Each part is told under the
// lock that guards it, beside the others: one may wait for a slow disk.
func (m *monitor) retell() {
	m.keepOwn()
	for _, c := range m.all() {
		m.guard("tell the keeper", func() {
			c.mu.Lock()
			c.tellLocked()
			stdout, stderr, out := c.stdout, c.stderr, c.out
			c.mu.Unlock()
			stdout.retell()
			stderr.retell()
			out.retell()
		})
	}
}

// keepOwn has the keeper hold the lock, so that no other monitor serves this
// directory meanwhile, and the socket, in whose queue clients wait for the next.
func (m *monitor) keepOwn() {
	m.keeper.set(ownEntry, 0, slot{slotLock, descriptor(m.lockFile)}, slot{slotListener, m.socketFd})
}

func descriptor(f *os.File) int {
	if f == nil {
		return -1
	}
	return int(f.Fd())
}

// tellLocked tells the keeper the process and the end of stdin; c.mu is held.
func (c *container) tellLocked() {
	pid := 0
	if c.pidfd >= 0 {
		pid = c.record.Pid
	}
	c.m.keeper.set(c.ref.Key(), pid, slot{slotPidfd, c.pidfd}, slot{slotStdin, descriptor(c.stdin)})
}

// closeStdin closes the writing end, at the keeper too, or the container would
// not see the end; c.mu is held.
func (c *container) closeStdin() {
	if c.stdin == nil {
		return
	}
	c.m.keeper.set(c.ref.Key(), -1, slot{slotStdin, -1})
	c.stdin.Close()
	c.stdin = nil
}

// keepLog has the keeper follow which file the log is.
func (c *container) keepLog(fd int) { c.m.keeper.set(c.ref.Key(), -1, slot{slotLog, fd}) }

func (c *container) openLog(path string) (*logFile, error) {
	l, err := openLog(path, c.log)
	if err != nil {
		return nil, err
	}
	l.keep = c.keepLog
	l.retell()
	return l, nil
}

// keepOutput gives what has the keeper follow a stream.
func (c *container) keepOutput(name string, spool *spool) func(fd int) {
	at := slotStdout
	if name == "stderr" {
		at = slotStderr
	}
	return func(fd int) {
		change := []slot{{at, fd}}
		if at == slotStdout {
			in, out := -1, -1
			if fd >= 0 && spool != nil {
				in, out = spool.bufferOf(1), spool.bufferOf(0)
			}
			change = append(change, slot{slotBufferIn, in}, slot{slotBufferOut, out})
		}
		c.m.keeper.set(c.ref.Key(), -1, change...)
	}
}

func (p paths) spool(key, name string) string { return filepath.Join(p.spools(), key+"."+name) }

// openOutput makes the spool of a stream, unless the file system refuses: the
// container is more than its last lines after two misfortunes.
func (c *container) openOutput(name string) *spool {
	s, err := openSpool(c.m.spool(c.ref.Key(), name), c.log)
	if err != nil {
		c.log.Error("the container's output goes to the log directly: the monitor's death could lose some", "stream", name, "err", err)
		return nil
	}
	return s
}

// connectOutput begins to write what comes out of f to the log, and owns f.
func (c *container) connectOutput(f *os.File, name string, w *lines) (*stream, error) {
	c.out.opened()
	st, err := openKept(c.m.loop, f, w, w.spool, c.keepOutput(name, w.spool))
	if err != nil {
		c.out.ended()
	}
	return st, err
}

// withBuffer gives a terminal's spool the pipe that splice(2) needs.
func (s *spool) withBuffer() error {
	if s == nil {
		return nil
	}
	out, in, err := pipe()
	if err != nil {
		return err
	}
	s.useBuffer(out, in)
	return nil
}

// bufferOf gives an end; -1: it is no terminal's.
func (s *spool) bufferOf(end int) int {
	if s.buffer[end] == nil {
		return -1
	}
	return s.bufferFd[end] // Fd would make it blocking
}

func (s *spool) useBuffer(out, in *os.File) {
	s.buffer = [2]*os.File{out, in}
	for i, f := range s.buffer {
		s.bufferFd[i] = int(f.Fd())
		_ = unix.SetNonblock(s.bufferFd[i], true) // of a pipe it cannot fail
	}
}

// An exec'd process has an entry too: its command is its client's, whose
// connection ends with this monitor, and so the next one ends it.
func execEntry(c *container, pid int) string { return fmt.Sprintf("%s/%d", c.ref.Key(), pid) }

// endExecs ends the commands that an earlier monitor ran in the container.
func (c *container) endExecs(held map[string]*kept) {
	for name, k := range held {
		if !strings.HasPrefix(name, c.ref.Key()+"/") {
			continue
		}
		delete(held, name)
		if f := k.files[slotPidfd]; f != nil && k.end == nil && unix.PidfdSendSignal(int(f.Fd()), 0, nil, 0) == nil {
			c.log.Warn("a command ends: its client's connection went with the monitor", "pid", k.pid)
			c.killTree(k.pid)
			// By its pidfd too, whatever has become of the number.
			if err := unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				c.log.Warn("it cannot be ended", "pid", k.pid, "err", err)
			}
		}
		k.close()
		c.m.keeper.drop(name)
	}
}

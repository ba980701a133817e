//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/troupe-run/troupe/backends/failpoint"
	"github.com/troupe-run/troupe/backends/monitor/wire"
	"golang.org/x/sys/unix"
)

// load takes over what an earlier monitor left: ended containers with their
// records, and running ones with their streams, as the keeper held them. What
// nobody asks for then was left by a create that did not come to its end.
func (m *monitor) load(held map[string]*kept) {
	failpoint.Hit("keep/load/listed")
	defer func() {
		for name, k := range held {
			k.close()
			m.keeper.drop(name)
		}
	}()
	defer m.dropStrays()
	names, err := os.ReadDir(filepath.Join(m.dir, "containers"))
	if err != nil {
		m.log.Error("containers of an earlier monitor cannot be found", "err", err)
		return
	}
	for _, n := range names {
		if filepath.Ext(n.Name()) == ".tmp" { // half written when the last monitor died
			if err := os.Remove(m.container(n.Name())); err != nil {
				m.log.Error("what was half written stays until the next start", "err", err)
			}
			continue
		}
		if !keyForm.MatchString(n.Name()) {
			continue
		}
		var rec record
		if err := readJSON(m.container(n.Name()), &rec); err != nil {
			m.setAside(n.Name(), err)
			continue
		}
		c, err := m.reserve(rec.Ref)
		if err == nil {
			failpoint.Hit("keep/load/before")
			err = c.load(rec, held)
			failpoint.Hit("keep/load/after")
		}
		if err != nil {
			m.log.Error("a container of an earlier monitor was taken over in part; Delete takes back the rest", "name", n.Name(), "err", err)
		}
	}
}

// load finds out what has become of a container. The truth is the exit record,
// else the process; never what the last monitor believed.
func (c *container) load(rec record, held map[string]*kept) error {
	c.record, c.pidfd, c.shared = rec, -1, true
	if rec.Version > recordVersion {
		c.log.Warn("a newer monitor has made this container: what this one does not know of it is not heeded", "version", rec.Version)
	}
	if err := c.loadEngine(); err != nil {
		return err
	}
	if _, err := os.Lstat(c.m.fifo(c.ref.Key())); err == nil { // init waits there until it is started
		c.record.StartedAt = time.Time{}
	}
	c.thawLeft()
	c.endExecs(held)
	k := held[c.ref.Key()]
	if k == nil {
		k = &kept{}
	} else if rec.Status != "" { // else it is dropped: Delete or a new create begins afresh
		delete(held, c.ref.Key())
		defer k.close()
	}
	if rec.Status != "" {
		c.loadOutput(k)
	}
	var exit wire.State
	err := readJSON(c.m.exit(c.ref.Key()), &exit)
	switch {
	case err == nil:
		c.record.State = exit
		close(c.over)
		c.mu.Lock()
		c.tellLocked() // the process and its stdin are not kept any more
		c.mu.Unlock()
		return nil
	case !errors.Is(err, os.ErrNotExist):
		c.log.Error("the exit record cannot be read", "err", err)
	case rec.Status == "":
		return nil // its create did not succeed: nothing but Delete is possible
	case rec.StartError != "":
		return nil // it still waits for Start
	case rec.Images != "" && rec.Status == wire.Created && (c.engine == nil || c.engine.status() == wire.Exited):
		return nil // so does this one
	}
	if k.files[slotPidfd] != nil {
		return c.watchKept(k)
	}
	if c.engine != nil {
		watched, err := c.watchForeign()
		if watched || err != nil {
			return err
		}
	}
	c.exited(exitStatus{unknown: true}, false)
	return nil
}

// loadEngine finds the engine again, as far as there was one, and the cgroup.
func (c *container) loadEngine() error {
	if c.record.Runtime != nil {
		c.engine = loadExternal(c)
		c.loadBundle()
		return nil
	}
	lc, err := libcontainer.Load(c.m.state(), c.ref.Key())
	if err != nil {
		c.loadBundle()
		if !errors.Is(err, libcontainer.ErrNotExist) {
			c.log.Warn("libcontainer's state cannot be read", "err", err)
		}
		return nil
	}
	c.m.profiles.share(lc)
	state, err := lc.State()
	if err != nil {
		return err
	}
	if c.cgroup, err = manager.NewWithPaths(state.Config.Cgroups, state.CgroupPaths); err != nil {
		return err
	}
	c.engine, c.record.Pid = &inProcess{c: c, lc: lc}, state.InitProcessPid
	config := lc.Config()
	c.shared = !config.Namespaces.IsPrivate(configs.NEWPID)
	return nil
}

// loadBundle finds the cgroup by the bundle the container was made from; there
// is none when that has gone as well.
func (c *container) loadBundle() {
	r := wire.Create{Ref: c.ref, Bundle: c.record.Bundle, Pause: c.record.Pause}
	spec, err := c.m.readSpec(r)
	if err != nil {
		c.log.Warn("the bundle of a container of an earlier monitor cannot be read: what it left in its cgroup cannot be killed", "err", err)
		return
	}
	c.shared = sharesPIDs(spec)
	if c.cgroup, err = c.m.newCgroup(r, spec); err != nil {
		c.log.Warn("the cgroup of a container of an earlier monitor cannot be found", "err", err)
	}
}

// watchForeign waits for the end of a process that an earlier monitor started,
// if it still runs.
func (c *container) watchForeign() (bool, error) {
	if !c.foreignAlive() {
		return false, nil
	}
	fd, err := unix.PidfdOpen(c.record.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pidfd of process %d: %w", c.record.Pid, err)
	}
	if !c.foreignAlive() { // the pid was given away in between
		unix.Close(fd)
		return false, nil
	}
	return true, c.watchPidfd(fd)
}

// watchKept waits for the end of a process that the keeper has kept for us. It
// may have ended already.
func (c *container) watchKept(k *kept) error {
	fd, err := unix.FcntlInt(k.files[slotPidfd].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", k.pid, err)
	}
	c.record.Pid = k.pid
	if c.engine != nil {
		c.foreignAlive() // it may have been started since its record was written
	}
	c.mu.Lock()
	c.stdin = k.take(slotStdin)
	c.mu.Unlock()
	return c.watchPidfd(fd)
}

func (c *container) watchPidfd(fd int) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pidfd = fd
	c.wait = func() (exitStatus, time.Time, error) {
		if end := c.m.keeper.status(c.ref.Key()); end != nil {
			return end.status, end.at, nil
		}
		return foreignExit(fd), time.Now().UTC(), nil
	}
	if c.cgroup != nil {
		c.oom = watchOOM(c.m.loop, c.cgroup, c.log)
	}
	c.tellLocked()
	c.token, err = c.m.loop.add(fd, unix.EPOLLIN, c.initEnded)
	return err
}

func (c *container) foreignAlive() bool {
	status := c.engine.status()
	if status == wire.Exited {
		return false
	}
	c.record.Status = status
	if status == wire.Created {
		c.record.StartedAt = time.Time{}
	}
	return true
}

// reapPatience is how long the new parent of a process, which is not us, may
// take to reap it. Some inits of small machines look once in a second.
const reapPatience = 10 * time.Second

// foreignExit asks the kernel how a process ended that was not our child
// (PIDFD_INFO_EXIT, kernel 6.15). The kernel knows after the process was
// reaped, by whoever is its parent now; if it cannot say, it is unknown.
func foreignExit(pidfd int) exitStatus {
	for range reapPatience / (20 * time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return decode(syscall.WaitStatus(uint32(info.Exit_code)))
		}
		if errno == unix.ENOTTY || errno == unix.EINVAL {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return exitStatus{unknown: true}
}

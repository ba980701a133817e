package namespaces

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"

	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// checkMapping refuses what the kernel would: it says only EINVAL.
func checkMapping(u *messages.UserNamespace) error {
	if u == nil {
		return nil
	}
	for _, m := range []messages.IDRange{u.UIDs, u.GIDs} {
		if m.Length == 0 || uint64(m.Host)+uint64(m.Length) > math.MaxUint32 {
			return messages.Errorf(messages.Invalid, "user namespace: %d ids from %d on cannot be mapped: ids are below %d", m.Length, m.Host, uint32(math.MaxUint32))
		}
	}
	return nil
}

// startIn starts a process in new namespaces that a new user namespace owns,
// and stops it before its first instruction; end ends it.
//
// It takes a process because a thread of many cannot change its user namespace
// (unshare(2), EINVAL), and one clone(2), because the kernel then makes the
// user namespace first, so that it owns the others. The program is our own,
// never run: traced processes stop in execve(2). It must be called on a locked
// thread, which is the tracer and whose end would kill the process.
func startIn(wanted []kind, u *messages.UserNamespace) (pid int, end func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"troupe-never-run"}, &os.ProcAttr{
		Files: []*os.File{null, null, null},
		Env:   []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  uintptr(flagsOf(wanted)),
			UidMappings: []syscall.SysProcIDMap{{HostID: int(u.UIDs.Host), Size: int(u.UIDs.Length)}},
			GidMappings: []syscall.SysProcIDMap{{HostID: int(u.GIDs.Host), Size: int(u.GIDs.Length)}},
			// Supplemental groups are set in the container; the mapping is
			// written by root, so there is nothing to gain by dropping one.
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  unix.SIGKILL,
		},
	})
	if err != nil {
		return 0, nil, limitReached(fmt.Errorf("a user namespace for ids from %d on (are user namespaces, and ptrace of own children, allowed? see /proc/sys/user/max_user_namespaces and kernel.yama.ptrace_scope): %w", u.UIDs.Host, err))
	}
	return p.Pid, func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}, nil
}

// follow brings the calling thread into the namespaces of a process, except
// its user namespace, which a thread cannot change and root need not be in.
func follow(dir string, wanted []kind) error {
	for _, k := range wanted {
		if k.flag == unix.CLONE_NEWUSER {
			continue
		}
		fd, err := unix.Open(dir+k.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open the new %s namespace: %w", k.name, err)
		}
		err = unix.Setns(fd, k.flag)
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("join the new %s namespace: %w", k.name, err)
		}
	}
	return nil
}

// writeAs writes a sysctl of a namespace that a user namespace owns. Those of
// IPC belong to its root, whom the node's root is not (ipc_permissions in the
// kernel's ipc/ipc_sysctl.c): the calling thread acts as that user meanwhile.
func (s setting) writeAs(u *messages.UserNamespace) error {
	if u == nil || !s.ipc {
		return s.write()
	}
	if err := actAs(u.UIDs.Host); err != nil {
		return fmt.Errorf("sysctl %s: acting as the pod's root: %w", s.name, err)
	}
	return errors.Join(s.write(), actAs(0))
}

// actAs sets the effective user of this thread alone; libc's and Go's own
// calls set it for the whole process.
func actAs(uid uint32) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return errno
	}
	return nil
}

// TryUserNamespace makes a user namespace that lives as long as use runs, and
// gives its path to it: to find out what this kernel can do with one.
func TryUserNamespace(use func(path string) error) error {
	runtime.LockOSThread() // the tracer must stay
	defer runtime.UnlockOSThread()
	some := messages.IDRange{Host: 65536, Length: 65536}
	pid, end, err := startIn([]kind{{"user", unix.CLONE_NEWUSER}}, &messages.UserNamespace{UIDs: some, GIDs: some})
	if err != nil {
		return err
	}
	defer end()
	return use(fmt.Sprintf("/proc/%d/ns/user", pid))
}

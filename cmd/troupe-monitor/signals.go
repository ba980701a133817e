//go:build linux && cgo

package main

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ours are those the monitor catches itself (waitForEnd): a caught one is as
// usual after execve(2).
var ours = []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// heedSignals gives the signals that whoever started this process ignored their
// usual effect again: what is ignored stays so through execve(2), and a
// container must not find its signals ignored because of how the node's monitor
// was started (nohup ignores SIGHUP, a shell's background job SIGINT and
// SIGQUIT, GNU make's children signals 32 and 33). Go has no way to do that.
func heedSignals() error {
	const sigsetSize, last = 8, 64
	// struct sigaction of the kernel: handler, flags, restorer where there is
	// one, mask; all zero is the default action.
	type action struct{ words [4]uintptr }
	const ignored = 1 // SIG_IGN
	for sig := uintptr(1); sig <= last; sig++ {
		var is, usual action
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&is)), sigsetSize, 0, 0); errno != 0 {
			return fmt.Errorf("ask how signal %d is taken: %w", sig, errno)
		}
		if is.words[0] != ignored || slices.Contains(ours, unix.Signal(sig)) {
			continue
		}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&usual)), 0, sigsetSize, 0, 0); errno != 0 {
			return fmt.Errorf("take signal %d as usual: %w", sig, errno)
		}
	}
	return nil
}

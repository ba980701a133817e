// Package thread is for what changes the calling thread for good: the namespaces
// it is in, its root directory.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// ThrownAway runs f on a thread that f may change for good, and waits for it. The
// goroutine ends without unlocking, so the Go runtime ends the thread too, and
// nothing else ever runs in what f has entered. A panic of f comes out here.
func ThrownAway(f func()) {
	done := make(chan struct{})
	var panicked any
	var onThread func()
	onThread = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be ended: the runtime would park it as f has left it
			// for ever, and /proc/self is what the main thread sees. Hold it here, so that
			// the next goroutine gets another thread, then give it back.
			other := make(chan struct{})
			go func() { defer close(other); onThread() }()
			<-other
			runtime.UnlockOSThread()
			return
		}
		defer close(done)
		defer func() { panicked = recover() }()
		f()
	}
	go onThread()
	<-done
	if panicked != nil {
		panic(panicked)
	}
}

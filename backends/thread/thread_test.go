package thread_test

import (
	"os"
	"sync"
	"testing"

	"github.com/troupe-run/troupe/backends/thread"
	"golang.org/x/sys/unix"
)

func TestTheMainThreadIsNeverThrownAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the root directory needs root")
	}
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			thread.ThrownAway(func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("on the main thread")
				}
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					t.Error(err)
				} else if err := unix.Chroot(dir); err != nil {
					t.Error(err)
				}
			})
			if root, err := os.Readlink("/proc/thread-self/root"); err != nil || root != "/" {
				t.Errorf("left in %s: %v", root, err)
			}
		})
	}
	all.Wait()
}

func TestAPanicIsTheCallers(t *testing.T) {
	defer func() {
		if recover() != "oh" {
			t.Error("the panic did not come out")
		}
	}()
	thread.ThrownAway(func() { panic("oh") })
}

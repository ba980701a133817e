package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// attempt is what an ADD was begun with: enough for its DEL.
type attempt struct {
	Network      string         `json:"network"`
	Config       []byte         `json:"config"` // of the whole list
	NetNS        string         `json:"netns"`
	Args         [][2]string    `json:"args"`
	Capabilities map[string]any `json:"capabilities,omitempty"`
}

func (b *Backend) attemptsDir() string           { return filepath.Join(b.config.CacheDir, "attempts") }
func (b *Backend) attemptPath(pod string) string { return filepath.Join(b.attemptsDir(), pod) }

// podDir is the directory that libcni keeps a pod's results in. Each pod has its
// own, because libcni reads the names of all there are for each ADD and DEL.
func (b *Backend) podDir(pod string) string     { return filepath.Join(b.config.CacheDir, "pods", pod) }
func (b *Backend) resultsDir(pod string) string { return filepath.Join(b.podDir(pod), "results") }

// beginAttempt writes down that an ADD begins. The file it gives is locked; the
// plugins inherit it, so that the lock lasts until the last of them has ended,
// also when the daemon is killed meanwhile (waitForPlugins).
func (b *Backend) beginAttempt(n *network, conf *libcni.RuntimeConf) (*os.File, error) {
	content, err := json.Marshal(attempt{n.list.Name, n.list.Bytes, conf.NetNS, conf.Args, conf.CapabilityArgs})
	if err != nil {
		return nil, fmt.Errorf("note the attempt to attach: %w", err)
	}
	if err := os.MkdirAll(b.attemptsDir(), 0o700); err != nil {
		return nil, diskError("note the attempt to attach", err)
	}
	f, err := os.CreateTemp(b.attemptsDir(), ".new-*")
	if err != nil {
		return nil, diskError("note the attempt to attach", err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(f.Name(), b.attemptPath(conf.ContainerID))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, diskError("note the attempt to attach", errors.Join(err, f.Close()))
	}
	return f, nil
}

func (b *Backend) endAttempt(pod string) error {
	if err := os.RemoveAll(b.attemptPath(pod)); err != nil {
		return fmt.Errorf("note that pod %s is attached: %w", pod, err)
	}
	return nil
}

// stray is how long plugins of a former daemon are waited for. A DEL while
// their ADD still runs would miss what they take after it; but something a
// plugin left running on purpose keeps the lock for ever.
const stray = 20 * time.Second

// waitForPlugins waits until no plugin of an attempt runs any more and locks it
// against others; the file is nil when there is no attempt.
func (b *Backend) waitForPlugins(ctx context.Context, pod string) (*os.File, error) {
	// Whatever has come to lie there must not hold up a detach.
	f, err := os.OpenFile(b.attemptPath(pod), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for an attempt to attach pod %s: %w", pod, err)
	}
	limit := time.After(stray)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock the attempt to attach pod %s: %w", pod, err), f.Close())
		}
		select {
		case <-ctx.Done():
			err := failure(ctx, messages.Deadline, "detach pod %s: a plugin of an earlier attach still runs: %w", pod, ctx.Err())
			return nil, errors.Join(err, f.Close())
		case <-limit:
			b.config.Log.Warn("a process of an earlier CNI ADD does not end; detaching all the same", "pod", pod)
			return f, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// forget removes what is left of the pod on the disk once every DEL succeeded.
// libcni removes its results itself, but says nothing when it cannot.
func (b *Backend) forget(pod string) error {
	if err := os.RemoveAll(b.podDir(pod)); err != nil {
		return fmt.Errorf("forget the network of pod %s: %w", pod, err)
	}
	return b.endAttempt(pod)
}

func diskError(doing string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return messages.Errorf(messages.NoSpace, "%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

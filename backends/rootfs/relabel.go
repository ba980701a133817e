package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"golang.org/x/sys/unix"
)

// labeller reads and writes the label of what an O_PATH descriptor stands for.
type labeller interface {
	get(fd int) (string, error)
	set(fd int, label string) error
}

// nodeLabels is nil where SELinux is off.
func nodeLabels() labeller {
	if !selinux.GetEnabled() {
		return nil
	}
	return selinuxLabels{}
}

type selinuxLabels struct{}

// An O_PATH descriptor takes no fgetxattr(2); its name in /proc leads to the
// very file, also when that is a symbolic link.
func (selinuxLabels) get(fd int) (string, error) { return selinux.FileLabel(byDescriptor(fd)) }

func (selinuxLabels) set(fd int, label string) error {
	return selinux.SetFileLabel(byDescriptor(fd), label)
}

func byDescriptor(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// notRelabelled are directories whose loss to a container's label would take
// the node with it; what is below them may be relabelled. The list is the label
// package's (go-selinux, chcon), with where the daemon's own files are.
var notRelabelled = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64",
	"/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
	"/var/lib", "/var/lib/kubelet", "/var/log", "/var/log/pods",
}

const (
	// reportEvery is how many files are between two words of progress.
	reportEvery = 4096
	// deepest is how many directories deep a tree may be: each holds a
	// descriptor, and a container can make its volume as deep as it likes.
	deepest = 2048
)

// Relabel implements backends.Volumes.
func (v *Volumes) Relabel(ctx context.Context, r backends.Relabel, progress func(int64)) error {
	if v.labels == nil || r.Label == "" {
		return ctx.Err()
	}
	real, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return fmt.Errorf("relabelling %s for SELinux: %w", r.Path, err)
	}
	home, _ := os.UserHomeDir()
	if slices.Contains(notRelabelled, real) || real == home || filepath.Dir(real) == "/home" {
		return messages.Errorf(messages.Invalid, "relabelling %s for SELinux is not allowed, the node needs its label: mount a directory below it, or without selinux_relabel", real)
	}
	release, err := trees.lock(ctx, real)
	if err != nil {
		return fmt.Errorf("relabelling %s for SELinux: waiting for another relabelling of it: %w", real, err)
	}
	defer release()
	w := labelWalk{ctx: ctx, labels: v.labels, label: r.Label, progress: progress}
	if err := w.run(real, r.IfTopDiffers); err != nil {
		return fmt.Errorf("relabelling %s for SELinux (%d files done): %w", real, w.seen, err)
	}
	return nil
}

// labelWalk labels a tree by descriptors, never by paths: a pod that has the
// volume already could otherwise swap a directory for a link and have a file of
// the node labelled. The top is labelled last, so that its label says that all
// below have theirs.
type labelWalk struct {
	ctx      context.Context
	labels   labeller
	label    string
	progress func(int64)
	seen     int64
}

func (w *labelWalk) run(top string, ifTopDiffers bool) error {
	fd, err := unix.Open(top, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if ifTopDiffers {
		if have, err := w.labels.get(fd); err == nil && have == w.label {
			return nil
		}
	}
	return w.visit(fd, 0)
}

func (w *labelWalk) visit(fd, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if depth == deepest {
			return messages.Errorf(messages.Invalid, "it is more than %d directories deep", deepest)
		}
		if err := w.below(fd, depth); err != nil {
			return err
		}
	}
	if w.seen++; w.seen%reportEvery == 0 {
		w.progress(w.seen)
	}
	if have, err := w.labels.get(fd); err == nil && have == w.label {
		return nil
	}
	// NFS and others have no labels; what is below such a mount has none either.
	if err := w.labels.set(fd, w.label); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOENT) {
		name, _ := os.Readlink(byDescriptor(fd))
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (w *labelWalk) below(fd, depth int) error {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(own), "directory")
	defer func() { _ = dir.Close() }()
	for {
		names, err := dir.Readdirnames(512)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := w.entry(int(dir.Fd()), name, depth); err != nil {
				return err
			}
		}
	}
}

func (w *labelWalk) entry(dir int, name string, depth int) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) { // removed meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.visit(fd, depth+1)
}

// trees are those being walked: two containers of a pod share a volume, and the
// second has next to nothing to do when the first has finished.
var trees = treeLocks{held: map[string]chan struct{}{}}

type treeLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is free
}

func (l *treeLocks) lock(ctx context.Context, path string) (release func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[path]
		if !ok {
			free := make(chan struct{})
			l.held[path] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, path)
				l.mu.Unlock()
				close(free)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

//go:build linux && cgo

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/troupe-run/troupe/backends/thread"
	"golang.org/x/sys/unix"
)

// anterooms are the mount namespaces in which init processes begin. Each holds
// the mounts that one configuration names and what libcontainer itself needs,
// at their paths on the node, and nothing else.
//
// An init has a mount namespace of its own, which the kernel makes as a copy of
// the one it was started in. On a node with 1,000 pods that one has 5,000
// mounts, all of them other pods': to copy, to read (libcontainer looks for the
// hierarchies of cgroup v1) and to throw away, once for each container. Here
// there are some thirty, however many pods there are (DESIGN "Speed").
type anterooms struct {
	base  []string // what libcontainer needs; nothing may be made in there, it would be made on the node
	empty func() (*os.File, error)
	warn  sync.Once
}

// newAnterooms: own is the directory of all that the monitor keeps.
func newAnterooms(own string) *anterooms {
	a := &anterooms{base: []string{"/dev", "/proc", "/run", "/sys", own}, empty: sync.OnceValues(emptyNamespace)}
	if exe, err := os.Executable(); err == nil { // of which libcontainer makes a copy that cannot be written
		a.base = append(a.base, filepath.Dir(exe))
	}
	return a
}

// tree is a mount with those below it, attached nowhere.
type tree struct {
	path string // where it is on the node, and will be
	base bool
	dir  bool
	fd   int
}

// startIn has f start a container's init in a mount namespace made for its
// configuration. It runs f on a thread that goes with the namespace when f has
// returned; init has its own by then. What cannot begin so, and what a kernel
// does not let begin so, begins among the node's mounts.
func (m *monitor) startIn(config *configs.Config, f func() error) error {
	paths, ok := m.anterooms.needs(config)
	if !ok {
		return f()
	}
	var entered, failure error
	thread.ThrownAway(func() {
		if entered = m.anterooms.enter(paths); entered == nil {
			failure = f()
		}
	})
	if entered == nil {
		return failure
	}
	m.anterooms.warn.Do(func() {
		m.log.Warn("containers begin among all of the node's mounts, which takes longer the more there are", "why", entered)
	})
	return f()
}

// needs lists what must be there, shorter paths first. It is not ok for what
// wants more of the node: hooks, a user namespace's view of its mounts, mounts
// that are to be seen on the node, and all of the node or of /run.
func (a *anterooms) needs(config *configs.Config) (paths []string, ok bool) {
	shared := func(flags int) bool { return flags&unix.MS_SHARED != 0 }
	if len(config.Hooks) > 0 || config.Namespaces.Contains(configs.NEWUSER) || !config.Namespaces.Contains(configs.NEWNS) ||
		shared(config.RootPropagation) || config.Seccomp != nil && config.Seccomp.ListenerPath != "" {
		return nil, false
	}
	paths = append(slices.Clone(a.base), config.Rootfs)
	for _, ns := range config.Namespaces {
		if ns.Path != "" {
			paths = append(paths, ns.Path)
		}
	}
	for _, mount := range config.Mounts {
		if mount.IsIDMapped() || slices.ContainsFunc(mount.PropagationFlags, shared) || mount.Source == "/run" {
			return nil, false
		}
		if mount.IsBind() {
			paths = append(paths, mount.Source)
		}
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	for i, path := range paths {
		if path == "/" || !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return nil, false
		}
		for _, other := range paths[:i] {
			if strings.HasPrefix(path, other+"/") && !slices.Contains(a.base, other) {
				return nil, false // it is in the other's tree, and a mount there would be seen on the node
			}
		}
	}
	return paths, true
}

// enter brings the calling thread into a new namespace with the mounts of these
// paths.
func (a *anterooms) enter(paths []string) error {
	empty, err := a.empty()
	if err != nil {
		return err
	}
	var trees []tree
	defer func() {
		for _, t := range trees {
			unix.Close(t.fd)
		}
	}()
	for _, path := range paths {
		t, err := a.copyOf(path)
		if err != nil {
			return err
		}
		trees = append(trees, t)
	}
	// A thread that shares its root with others cannot change the namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the root directory: %w", err)
	}
	if err := unix.Setns(int(empty.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the empty mount namespace: %w", err)
	}
	if err := newRoot(); err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.attach(slices.ContainsFunc(a.base, func(b string) bool { return strings.HasPrefix(t.path, b+"/") })); err != nil {
			return err
		}
	}
	return os.MkdirAll("/tmp", 0o777) // where libcontainer keeps what it copies up into a tmpfs
}

// copyOf takes a copy of what is mounted at a path and below it now.
func (a *anterooms) copyOf(path string) (tree, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return tree{}, fmt.Errorf("%s: %w", path, err)
	}
	t := tree{path: path, base: slices.Contains(a.base, path), dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path != "/run" { // where all pods' mounts are
		flags |= unix.AT_RECURSIVE
	}
	var err error
	if t.fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags); err != nil {
		return tree{}, fmt.Errorf("open_tree %s: %w", path, err)
	}
	return t, nil
}

// attach mounts the tree at its path. there: the path exists.
func (t tree) attach(there bool) error {
	if t.base { // what comes to lie in it must not be seen on the node
		attr := unix.MountAttr{Propagation: unix.MS_SLAVE}
		if err := unix.MountSetattr(t.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("mount_setattr %s: %w", t.path, err)
		}
	}
	if !there {
		if err := makeTarget(t.path, t.dir); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", t.path, err)
	}
	return nil
}

func makeTarget(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// spare is where the root of a new namespace is mounted in the empty one.
const spare = "/root"

// newRoot brings the calling thread, which is in the empty namespace, into a
// copy of it with an empty directory as its root.
func newRoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("anteroom", spare, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount the anteroom's root: %w", err)
	}
	return pivotTo(spare)
}

// pivotTo makes a mount the root and lets go of all others.
func pivotTo(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("chdir %s: %w", dir, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the old root, which lies on the new one
		return fmt.Errorf("let go of the node's mounts: %w", err)
	}
	return unix.Chdir("/")
}

// emptyNamespace makes a mount namespace with nothing but an empty directory.
// Anterooms are made from it, because the kernel makes each as a copy.
func emptyNamespace() (ns *os.File, err error) {
	thread.ThrownAway(func() { ns, err = emptyNamespaceHere() })
	return ns, err
}

func emptyNamespaceHere() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the namespace's mounts private: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt") // as long as there is /proc
	if err != nil {
		return nil, err
	}
	at := "/proc" // any directory will do
	if err = unix.Mount("anterooms", at, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=755,size=64k"); err == nil {
		err = errors.Join(os.Mkdir(at+spare, 0o755), pivotTo(at))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make an empty mount namespace: %w", err), ns.Close())
	}
	return ns, nil
}

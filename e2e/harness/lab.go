package harness

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a directory on tmpfs (its deletions are fast and its disk is nobody
// else's) with a name that is in everything made for it.
type Lab struct {
	Name string // e.g. "lab123-3f2a91c0"
	Dir  string
	// Abandon makes Close kill what still runs in the lab's cgroups. It is for
	// after a failure; where leftovers are looked for, it would hide them.
	Abandon bool
	undo    []func() error
}

// NewLab makes an empty lab in the directory that Enter made.
func NewLab() (*Lab, error) {
	base := os.Getenv(baseDir)
	if base == "" {
		return nil, errors.New("a lab is made on a node of its own: call harness.Enter first")
	}
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	l := &Lab{Name: filepath.Base(base) + "-" + hex.EncodeToString(b)}
	l.Dir = filepath.Join(base, hex.EncodeToString(b))
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return nil, err
	}
	l.OnClose(func() error { return os.Remove(l.Dir) })
	if err := unix.Mount("tmpfs", l.Dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, errors.Join(fmt.Errorf("mounting tmpfs on %s: %w", l.Dir, err), l.Close())
	}
	l.OnClose(func() error { return unmountBelow(l.Dir) })
	l.OnClose(func() error {
		if l.Abandon {
			killCgroups(l.Name)
		}
		return removeCgroups(l.Name)
	})
	return l, nil
}

// OnClose adds something to give back; the last added goes first.
func (l *Lab) OnClose(f func() error) { l.undo = append(l.undo, f) }

// Close gives everything back, going on past failures.
func (l *Lab) Close() error {
	var errs []error
	for len(l.undo) > 0 {
		last := len(l.undo) - 1
		f := l.undo[last]
		l.undo = l.undo[:last]
		if err := f(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Path is a path in the lab; the directories on the way to it are made.
func (l *Lab) Path(elem ...string) string {
	p := filepath.Join(append([]string{l.Dir}, elem...)...)
	_ = os.MkdirAll(filepath.Dir(p), 0o755) // what needs it will say so
	return p
}

// Mkdir makes a directory in the lab.
func (l *Lab) Mkdir(elem ...string) (string, error) {
	p := l.Path(elem...)
	return p, os.MkdirAll(p, 0o755)
}

// Write writes a file in the lab and gives its path.
func (l *Lab) Write(content string, elem ...string) (string, error) {
	p := l.Path(elem...)
	return p, os.WriteFile(p, []byte(content), 0o644)
}

// unmountBelow unmounts everything at and below dir, deepest first.
func unmountBelow(dir string) error {
	mounts, err := mountpoints()
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		at := mounts[i]
		if at != dir && !strings.HasPrefix(at, dir+"/") {
			continue
		}
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroups removes the cgroups that carry the lab's name. They must be
// empty, or become so soon: a killed process leaves a moment later.
func removeCgroups(name string) error {
	dirs, err := cgroupsOf(name)
	if err != nil {
		return err
	}
	slices.Reverse(dirs) // children first
	for patience := 40; ; patience-- {
		var errs []error
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 || patience == 0 {
			return errors.Join(errs...)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killCgroups kills every process in the cgroups that carry the name.
func killCgroups(name string) {
	dirs, _ := cgroupsOf(name) // what is not found now, the removal names
	for _, dir := range dirs {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL) // gone already is as good
			}
		}
	}
}

// Tool finds a program: in the directory that TROUPE_BIN names (e2e/cve puts
// builds without a guard there), in the project's own tools, then in PATH.
func Tool(name string) (string, error) {
	root, err := ProjectRoot()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{os.Getenv("TROUPE_BIN"), filepath.Join(root, "bin"), filepath.Join(root, ".cache", "tools", "bin")} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); dir != "" && err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither in bin, .cache/tools/bin nor PATH: run 'make setup build tools'", name)
	}
	return p, nil
}

// ProjectRoot is the directory with the project's go.mod, looked for from the
// working directory upwards.
func ProjectRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above: run it inside the repository", start)
		}
	}
}

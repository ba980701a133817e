package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is one overlay mount to be made.
type overlay struct {
	lowers      []string // the uppermost first
	upper, work string   // empty: nothing is written to it
	label       string   // SELinux context, or empty
	options     []string
}

// flags are the options that are the mount's and not the file system's.
var flags = map[string]struct{ attr, ms uintptr }{
	"nodev":   {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
	"nosuid":  {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID},
	"noexec":  {unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
	"noatime": {unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME},
	"ro":      {unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY},
}

// longestValue is what fsconfig(2) takes for a string.
const longestValue = 255

// mount mounts it with the new mount API, which takes each layer by itself, so
// that neither the length of a chain nor a ':' in a path matters. Kernels
// before 6.7 do not know "lowerdir+" and get mount(2).
func (o overlay) mount(target string) error {
	err := errNoLowerdirPlus
	if !noLowerdirPlus {
		err = o.mountNew(target)
	}
	if errors.Is(err, errNoLowerdirPlus) {
		err = o.mountClassic(target)
	}
	if err != nil {
		return err
	}
	return makePrivate(target)
}

// makePrivate: a mount made below a shared one is shared too. Ours is private,
// so that what is mounted inside it stays in the container's namespace.
func makePrivate(target string) error {
	if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
		err = fmt.Errorf("making %s private: %w", target, err)
		return errors.Join(err, unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

// noLowerdirPlus makes this kernel an old one, for tests.
var noLowerdirPlus bool

var errNoLowerdirPlus = errors.New("this kernel's overlayfs has no lowerdir+")

// mountNew is overlay by fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
func (o overlay) mountNew(target string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return errNoLowerdirPlus
		}
		return fmt.Errorf("fsopen overlay (is the overlay module there?): %w", err)
	}
	defer unix.Close(fd)
	var paths paths
	defer paths.close()
	for i, lower := range o.lowers {
		err := paths.set(fd, "lowerdir+", lower)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return errNoLowerdirPlus
		}
		if err != nil {
			return explained(fd, fmt.Errorf("layer %s: %w", lower, err))
		}
	}
	if o.upper != "" {
		if err := errors.Join(paths.set(fd, "upperdir", o.upper), paths.set(fd, "workdir", o.work)); err != nil {
			return explained(fd, err)
		}
	}
	attr, err := o.configure(fd)
	if err != nil {
		return explained(fd, err)
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return explained(fd, fmt.Errorf("creating overlay: %w", err))
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return explained(fd, fmt.Errorf("fsmount: %w", err))
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", target, err)
	}
	return nil
}

// configure passes the options on and gives those of the mount itself.
func (o overlay) configure(fd int) (attr int, err error) {
	options := o.options
	if o.label != "" {
		options = append([]string{"context=" + o.label}, options...)
	}
	for _, option := range options {
		if f, ok := flags[option]; ok {
			attr |= int(f.attr)
			continue
		}
		key, value, pair := strings.Cut(option, "=")
		if pair {
			err = unix.FsconfigSetString(fd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return 0, fmt.Errorf("mount option %q: %w", option, err)
		}
	}
	return attr, nil
}

// explained adds what the kernel says about a failure in the new API.
func explained(fd int, err error) error {
	buffer := make([]byte, 1024)
	var lines []string
	for range 8 { // the kernel keeps at most eight
		n, readErr := unix.Read(fd, buffer)
		if readErr != nil || n <= 0 {
			break
		}
		lines = append(lines, strings.TrimSpace(string(buffer[:n])))
	}
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w (kernel: %s)", err, strings.Join(lines, "; "))
}

// mountClassic is mount(2). Its options are one page at most and ':' separates
// layers in them, so every path is written as the short name of a descriptor.
func (o overlay) mountClassic(target string) error {
	var paths paths
	defer paths.close()
	lowers := make([]string, len(o.lowers))
	for i, lower := range o.lowers {
		short, err := paths.open(lower)
		if err != nil {
			return err
		}
		lowers[i] = short
	}
	data := []string{"lowerdir=" + strings.Join(lowers, ":")}
	if o.upper != "" {
		upper, err := paths.open(o.upper)
		if err != nil {
			return err
		}
		work, err := paths.open(o.work)
		if err != nil {
			return err
		}
		data = append(data, "upperdir="+upper, "workdir="+work)
	}
	var ms uintptr
	for _, option := range o.options {
		if f, ok := flags[option]; ok {
			ms |= f.ms
		} else {
			data = append(data, option)
		}
	}
	if o.label != "" {
		data = append(data, fmt.Sprintf("context=%q", o.label))
	}
	joined := strings.Join(data, ",")
	if page := os.Getpagesize(); len(joined) >= page {
		return fmt.Errorf("%d layers need %d bytes of mount options, this kernel takes %d: use Linux 6.7 or later", len(o.lowers), len(joined), page)
	}
	if err := unix.Mount("overlay", target, "overlay", ms, joined); err != nil {
		return fmt.Errorf("mounting overlay on %s (dmesg may say more): %w", target, err)
	}
	return nil
}

// paths are directories held open while a mount is made.
type paths struct{ files []*os.File }

// set gives the kernel a path, by a descriptor's name where it is too long.
func (p *paths) set(fd int, key, path string) error {
	value := path
	if len(value) > longestValue {
		var err error
		if value, err = p.open(path); err != nil {
			return err
		}
	}
	if err := unix.FsconfigSetString(fd, key, value); err != nil {
		return fmt.Errorf("%s=%s: %w", key, path, err)
	}
	return nil
}

func (p *paths) open(path string) (string, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	p.files = append(p.files, f)
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), nil
}

func (p *paths) close() {
	for _, f := range p.files {
		f.Close()
	}
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/troupe-run/troupe/backends/thread"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
)

// extract unpacks in a thread whose root is dir: whatever names and links a
// stranger's archive has, there is nothing else they can reach.
func extract(dir string, stream io.Reader) error {
	return inRoot(dir, func() error { return newExtractor(stream).run() })
}

// inRoot has a thread of its own do the work.
func inRoot(dir string, work func() error) (err error) {
	thread.ThrownAway(func() { err = chrooted(dir, work) })
	return err
}

func chrooted(dir string, work func() error) (err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unpacking below %s: unshare: %w", dir, err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("unpacking below %s: %w", dir, err)
	}
	defer unix.Close(root)
	unix.Umask(0o022) // for directories that the archive leaves out
	if err := unix.Chroot(dir); err != nil {
		return fmt.Errorf("unpacking below %s: chroot: %w", dir, err)
	}
	// The thread ends a moment after us. It must not keep dir's file system busy.
	defer func() { err = errors.Join(err, unix.Fchdir(root), unix.Chroot(".")) }()
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("unpacking below %s: %w", dir, err)
	}
	return work()
}

// extractor makes the files of an archive in the root of its thread. What a
// layer has by the thousands (new files, directories and symbolic links
// without attributes) it makes itself, with six system calls where the
// library, which has no root of its own and must look at every part of every
// path, needs twenty. Everything else is the library's work, entry by entry.
// A fuzz target holds the two against each other.
type extractor struct {
	raw    *recorder
	tar    *tar.Reader
	buffer []byte
	pad    int64 // of the last entry's content, before the next header
	dirs   []dirTime
}

type dirTime struct {
	path string
	at   []unix.Timespec
}

func newExtractor(stream io.Reader) *extractor {
	raw := &recorder{from: stream}
	return &extractor{raw: raw, tar: tar.NewReader(raw), buffer: make([]byte, aheadSize)}
}

var unpackOptions = &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}

func (x *extractor) run() error {
	for {
		x.raw.record(2 * maxHeader) // the inspector has let it pass
		header, err := x.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		entry := x.raw.recorded()[min(x.pad, int64(len(x.raw.recorded()))):]
		x.pad = -header.Size & 511
		if header.Typeflag != tar.TypeReg {
			x.pad = 0
		}
		if isSparse(header) {
			// The library reads it, and what follows, from where its header began.
			err = archive.Unpack(io.MultiReader(bytes.NewReader(bytes.Clone(entry)), x.rest()), "/", unpackOptions)
			return errors.Join(err, x.setTimes())
		}
		if err := x.make(header, entry); err != nil {
			return err
		}
	}
	return x.setTimes()
}

func (x *extractor) rest() io.Reader {
	x.raw.pass()
	return x.raw
}

// make makes one entry.
func (x *extractor) make(h *tar.Header, entry []byte) error {
	name := path.Clean("/" + h.Name)
	simple := isSimple(h)
	if h.Typeflag == tar.TypeDir {
		at := []unix.Timespec{{}, {}}
		if inRange(h.ModTime) && inRange(h.AccessTime) {
			at = times(h)
		}
		x.dirs = append(x.dirs, dirTime{name, at})
	}
	err := errByLibrary
	if simple && name != "/" {
		switch h.Typeflag {
		case tar.TypeReg:
			return x.file(name, h, entry)
		case tar.TypeDir:
			err = makeDirectory(name, h)
		case tar.TypeSymlink:
			err = makeSymlink(name, h)
		}
	}
	if errors.Is(err, errByLibrary) {
		return x.byLibrary(h, entry)
	}
	return err
}

// errByLibrary: there is something there already, or the way there is missing.
var errByLibrary = errors.New("for the library")

// isSimple says whether an entry has only what this file knows of.
func isSimple(h *tar.Header) bool {
	cleaned := path.Clean(h.Name)
	return cleaned != ".." && !strings.HasPrefix(cleaned, "../") &&
		!strings.HasPrefix(path.Base(cleaned), archive.WhiteoutPrefix) && !strings.ContainsRune(h.Name+h.Linkname, 0) &&
		!hasKey(h, paxAttribute) && inRange(h.ModTime) && inRange(h.AccessTime) &&
		h.Uid >= 0 && h.Gid >= 0 && h.Mode >= 0
}

// inRange: the library has its own idea of times outside of these.
func inRange(t time.Time) bool { return t.IsZero() || (t.Unix() >= 0 && t.Year() < 2200) }

// times are the entry's, the time of access not before that of the content.
func times(h *tar.Header) []unix.Timespec {
	accessed := h.AccessTime
	if accessed.Before(h.ModTime) {
		accessed = h.ModTime
	}
	return []unix.Timespec{unix.NsecToTimespec(accessed.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
}

// unusual turns what the library can cope with into errByLibrary.
func unusual(what, name string, err error) error {
	for _, coped := range []unix.Errno{unix.EEXIST, unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EISDIR} {
		if errors.Is(err, coped) {
			return errByLibrary
		}
	}
	return &os.PathError{Op: what, Path: name, Err: err}
}

func (x *extractor) file(name string, h *tar.Header, entry []byte) error {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(h.Mode)&0o777)
	if err != nil {
		if err = unusual("open", name, err); errors.Is(err, errByLibrary) {
			return x.byLibrary(h, entry)
		}
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	x.raw.pass()
	if _, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{x.tar}, x.buffer); err != nil {
		return err
	}
	var made unix.Stat_t
	err = unix.Fstat(fd, &made)
	if err == nil && foreign(&made, h) {
		err = unix.Fchown(fd, h.Uid, h.Gid)
	}
	if err == nil && otherMode(&made, h) {
		err = unix.Fchmod(fd, uint32(h.Mode)&0o7777)
	}
	if err != nil {
		return &os.PathError{Op: "give owner and mode to", Path: name, Err: err}
	}
	return setTime(name, times(h))
}

// foreign and otherMode say what is to be changed of a new file: nothing, of
// most, and each change goes into the file system's journal. A set-user-ID bit, which a change of owner takes away, is
// never there before the mode is set.
func foreign(made *unix.Stat_t, h *tar.Header) bool {
	return int(made.Uid) != h.Uid || int(made.Gid) != h.Gid
}

func otherMode(made *unix.Stat_t, h *tar.Header) bool {
	return made.Mode&0o7777 != uint32(h.Mode)&0o7777
}

func makeDirectory(name string, h *tar.Header) error {
	if err := unix.Mkdir(name, uint32(h.Mode)&0o777); err != nil {
		return unusual("mkdir", name, err)
	}
	var made unix.Stat_t
	err := unix.Lstat(name, &made)
	if err == nil && foreign(&made, h) {
		err = unix.Lchown(name, h.Uid, h.Gid)
	}
	if err == nil && otherMode(&made, h) {
		err = unix.Chmod(name, uint32(h.Mode)&0o7777)
	}
	if err != nil {
		return &os.PathError{Op: "give owner and mode to", Path: name, Err: err}
	}
	return nil // its times when nothing more is made in it
}

func makeSymlink(name string, h *tar.Header) error {
	if err := unix.Symlink(h.Linkname, name); err != nil {
		return unusual("symlink", name, err)
	}
	var made unix.Stat_t
	err := unix.Lstat(name, &made)
	if err == nil && foreign(&made, h) {
		err = unix.Lchown(name, h.Uid, h.Gid)
	}
	if err != nil {
		return &os.PathError{Op: "give an owner to", Path: name, Err: err}
	}
	return setTime(name, times(h))
}

func setTime(name string, at []unix.Timespec) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, at, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// byLibrary gives the library an archive of this one entry.
func (x *extractor) byLibrary(h *tar.Header, entry []byte) error {
	parts := []io.Reader{bytes.NewReader(bytes.Clone(entry))}
	if h.Typeflag == tar.TypeReg {
		x.raw.pass()
		parts = append(parts, x.tar, bytes.NewReader(make([]byte, x.pad)))
	}
	parts = append(parts, bytes.NewReader(make([]byte, 1024)))
	return archive.Unpack(io.MultiReader(parts...), "/", unpackOptions)
}

// setTimes gives directories their times, which changed with each entry made
// in them. One that something else has replaced since keeps its own.
func (x *extractor) setTimes() error {
	for _, d := range x.dirs {
		var st unix.Stat_t
		if err := unix.Lstat(d.path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: d.path, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if err := setTime(d.path, d.at); err != nil {
			return err
		}
	}
	return nil
}

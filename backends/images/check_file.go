package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
	schilyXattr    = "SCHILY.xattr."
)

// survey compares a layer's directory with the headers it was unpacked by.
type survey struct {
	root     int
	metadata bool // compare owners, modes and attributes
	names    map[uint64]struct{}
	seed     maphash.Seed
	cut      bool // the headers could not all be read: what else is there is not known
}

func newSurvey(root int, metadata bool) *survey {
	return &survey{root: root, metadata: metadata, names: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// look compares one header with the file made from it. The times are not
// compared: tools that share files between layers change them.
func (v *survey) look(h *tar.Header) error {
	name := path.Clean("/" + h.Name)[1:]
	if h.Typeflag == tar.TypeXGlobalHeader || name == "" {
		return nil
	}
	dir, base := path.Split(name)
	if base == opaqueWhiteout {
		return v.opaque(path.Clean(dir))
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		if strings.HasPrefix(hidden, whiteout) {
			return nil // something of AUFS' own, which nobody unpacks
		}
		return v.exists(dir + hidden)
	}
	fd, err := v.open(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := v.sameKind(fd, &st, h); err != nil || !v.metadata {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		return nil // each of its names set them; the last one is what it has
	}
	return sameMetadata(fd, &st, h)
}

// add remembers a name and the directories above it. Hashes are kept, not
// names: a layer may have a million of them.
func (v *survey) add(name string) {
	for ; name != "." && name != "/" && name != ""; name = path.Dir(name) {
		key := maphash.String(v.seed, name)
		if _, known := v.names[key]; known {
			return
		}
		v.names[key] = struct{}{}
	}
}

// open finds a file by its name in the archive and remembers the one it has in
// the directory: they differ where the archive has a link among its directories.
func (v *survey) open(name string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(v.root, name, &how)
	if !errors.Is(err, unix.ELOOP) {
		v.add(name)
		return fd, err
	}
	if fd, err = openInLayer(v.root, name, unix.O_PATH|unix.O_NOFOLLOW); err != nil {
		return -1, err
	}
	root, err1 := os.Readlink(procFD(v.root))
	real, err2 := os.Readlink(procFD(fd))
	if err := errors.Join(err1, err2); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	v.add(strings.TrimPrefix(real, root+"/"))
	return fd, nil
}

func (v *survey) exists(name string) error {
	fd, err := v.open(name)
	if err != nil {
		return fmt.Errorf("the mark that it was deleted: %w", err)
	}
	return unix.Close(fd)
}

func (v *survey) opaque(dir string) error {
	fd, err := v.open(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		if value, err := xattrOf(fd, name); err == nil && string(value) == "y" {
			return nil
		}
	}
	return errors.New("the mark that hides the lower layers' directory is missing")
}

var kinds = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG,
	tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK,
}

func (v *survey) sameKind(fd int, st *unix.Stat_t, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		return v.sameFile(st, h.Linkname)
	}
	kind, known := kinds[h.Typeflag]
	if !known {
		return nil
	}
	if st.Mode&unix.S_IFMT != kind {
		return fmt.Errorf("it is of another type: %#o instead of %#o", st.Mode&unix.S_IFMT, kind)
	}
	switch kind {
	case unix.S_IFREG:
		if st.Size != h.Size {
			return fmt.Errorf("it has %d bytes instead of %d", st.Size, h.Size)
		}
	case unix.S_IFLNK:
		target := make([]byte, len(h.Linkname)+1)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			return err
		}
		if string(target[:n]) != h.Linkname {
			return fmt.Errorf("it does not lead to %q any more", h.Linkname)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if want := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)); st.Rdev != want {
			return fmt.Errorf("it is another device: %#x instead of %#x", st.Rdev, want)
		}
	}
	return nil
}

func (v *survey) sameFile(st *unix.Stat_t, target string) error {
	fd, err := openInLayer(v.root, path.Clean("/" + target)[1:], unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("its other name %s: %w", target, err)
	}
	defer unix.Close(fd)
	var other unix.Stat_t
	if err := unix.Fstat(fd, &other); err != nil {
		return err
	}
	if other.Dev != st.Dev || other.Ino != st.Ino {
		return fmt.Errorf("it and %s are two files instead of one", target)
	}
	return nil
}

func sameMetadata(fd int, st *unix.Stat_t, h *tar.Header) error {
	if int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		return fmt.Errorf("it belongs to %d:%d instead of %d:%d", st.Uid, st.Gid, h.Uid, h.Gid)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return nil
	}
	if mode := st.Mode & 0o7777; mode != uint32(h.Mode)&0o7777 {
		return fmt.Errorf("its mode is %#o instead of %#o", mode, h.Mode&0o7777)
	}
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	for key, want := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, schilyXattr)
		if !ok || volatileXattr(name) {
			continue
		}
		got, err := xattrOf(fd, name)
		if errors.Is(err, unix.ENOTSUP) {
			continue // nor could it be set
		}
		if err != nil || !bytes.Equal(got, []byte(want)) {
			return fmt.Errorf("its attribute %s is another: %q (%w)", name, got, errors.Join(err, errAttribute))
		}
	}
	return noNewRights(fd, h)
}

var errAttribute = errors.New("not what it was unpacked with")

// volatileXattr: labels of the machine's and marks of overlay's own.
func volatileXattr(name string) bool {
	return name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// noNewRights: the one attribute a file must not have that its header lacks.
func noNewRights(fd int, h *tar.Header) error {
	const capability = "security.capability"
	if _, had := h.PAXRecords[schilyXattr+capability]; had {
		return nil
	}
	if _, err := xattrOf(fd, capability); err == nil {
		return errors.New("it has got capabilities")
	}
	return nil
}

// xattrOf reads by way of /proc: the descriptor is one of O_PATH.
func xattrOf(fd int, name string) ([]byte, error) {
	file := procFD(fd)
	value := make([]byte, 256)
	n, err := unix.Getxattr(file, name, value)
	if errors.Is(err, unix.ERANGE) {
		value = make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err = unix.Getxattr(file, name, value)
	}
	if err != nil {
		return nil, err
	}
	return value[:n], nil
}

func procFD(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// strangers finds what is in the directory and was in no archive.
func (v *survey) strangers(ctx context.Context, dir string) error {
	if v.cut {
		return nil
	}
	return filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(file, dir), "/")
		if name == "" {
			return nil
		}
		if _, known := v.names[maphash.String(v.seed, name)]; !known {
			return fmt.Errorf("%s: it is in no archive", name)
		}
		return nil
	})
}

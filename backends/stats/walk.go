package stats

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// size is what a directory tree takes.
type size struct{ bytes, inodes uint64 }

// walk adds up a tree by what its inodes occupy, each once, however many names
// it has. A container may rename, remove and link while it is walked and may
// have built the tree to be a trap: no symbolic link is followed, no other file
// system entered, no path gets too long for the kernel, and what has gone in
// the meantime is left out.
func walk(ctx context.Context, root string) (size, error) {
	top, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return size{}, fmt.Errorf("open %s: %w", root, err)
	}
	w := walker{ctx: ctx, linked: map[uint64]struct{}{}, buf: make([]byte, 32<<10)}
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		unix.Close(top)
		return size{}, fmt.Errorf("stat %s: %w", root, err)
	}
	w.device = st.Dev
	w.add(&st)
	w.todo = []pending{{from: &anchor{fd: top, users: 1}, path: "."}}
	defer w.drop()
	for len(w.todo) > 0 {
		if err := ctx.Err(); err != nil {
			return size{}, err
		}
		last := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		w.directory(last)
		if w.err != nil { // half a sum would look like a small layer
			return size{}, fmt.Errorf("walk %s: %w", root, w.err)
		}
	}
	return w.size, nil
}

type walker struct {
	ctx    context.Context
	size   size
	device uint64
	linked map[uint64]struct{} // inodes with several names
	todo   []pending
	buf    []byte
	err    error
}

// failed keeps an error, unless it is what a name gives that was removed or
// became another file while the tree was walked.
func (w *walker) failed(err error) {
	for _, changed := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, changed) {
			return
		}
	}
	w.err = err
}

// pending is a directory still to be read, by its path from an open one.
type pending struct {
	from *anchor
	path string
}

// anchor is an open directory that paths start at; it is closed with the last
// of them.
type anchor struct {
	fd    int
	users int
}

func (a *anchor) release() {
	if a.users--; a.users == 0 {
		unix.Close(a.fd)
	}
}

// longest is how long a path from an anchor may get: names are at most 255
// bytes and the kernel takes 4096.
const longest = 3000

// openDir opens a directory below an open one, wherever a rename may have put it
// but not outside.
func openDir(at int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	return ignoringEINTR(func() (int, error) { return unix.Openat2(at, path, &how) })
}

func (w *walker) drop() {
	for _, p := range w.todo {
		p.from.release()
	}
}

func (w *walker) directory(p pending) {
	defer p.from.release()
	fd, err := openDir(p.from.fd, p.path)
	if err != nil {
		w.failed(err)
		return
	}
	here := &anchor{fd: fd, users: 1}
	defer here.release()
	for w.ctx.Err() == nil {
		n, err := ignoringEINTR(func() (int, error) { return unix.Getdents(fd, w.buf) })
		if err != nil {
			w.failed(err)
		}
		if n <= 0 {
			return
		}
		w.entries(w.buf[:n], p, here)
	}
}

// entries goes through what getdents64(2) gave: inode 8 bytes, offset 8,
// length 2, type 1, name up to a zero.
func (w *walker) entries(buf []byte, p pending, here *anchor) {
	for len(buf) >= 19 {
		length := int(binary.NativeEndian.Uint16(buf[16:18]))
		if length < 19 || length > len(buf) {
			return
		}
		raw, _, _ := bytes.Cut(buf[19:length], []byte{0})
		buf = buf[length:]
		if name := string(raw); name != "." && name != ".." {
			w.entry(name, p, here)
		}
	}
}

func (w *walker) entry(name string, p pending, here *anchor) {
	var st unix.Stat_t
	if err := unix.Fstatat(here.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		w.failed(err)
		return
	}
	if st.Dev != w.device {
		return
	}
	w.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	from, path := p.from, p.path+"/"+name
	if len(path) > longest {
		from, path = here, name
	}
	from.users++
	w.todo = append(w.todo, pending{from, path})
}

func (w *walker) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, counted := w.linked[st.Ino]; counted {
			return
		}
		w.linked[st.Ino] = struct{}{}
	}
	w.size.bytes += uint64(st.Blocks) * 512
	w.size.inodes++
}
